/* H's limit: io_uring and the parser, without a library between. */
#include "http.h"

#include "serve_uring.h"

int main(void)
{
    return serve_uring();
}
