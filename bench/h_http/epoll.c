/* H's limit on the other backend: epoll and the parser. */
#include "http.h"

#include "serve_epoll.h"

int main(void)
{
    return serve_epoll();
}
