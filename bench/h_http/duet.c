/* H with duet: duet_accept(), duet_read() and duet_write(), and a coroutine for each connection. */
#include "http.h"

#include "serve_duet.h"

int main(void)
{
    return serve_duet();
}
