/* W9's limit on the other backend: epoll without a library. */
#include "echo.h"

#include "serve_epoll.h"

int main(void)
{
    return serve_epoll();
}
