/* W9's limit: io_uring without a library. */
#include "echo.h"

#include "serve_uring.h"

int main(void)
{
    return serve_uring();
}
