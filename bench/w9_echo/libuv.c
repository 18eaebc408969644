/* W9 with libuv: uv_tcp_t. */
#include "echo.h"

#include "serve_uv.h"

int main(void)
{
    return serve_uv();
}
