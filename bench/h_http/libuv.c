/* H with libuv: uv_tcp_t. */
#include "http.h"

#include "serve_uv.h"

int main(void)
{
    return serve_uv();
}
