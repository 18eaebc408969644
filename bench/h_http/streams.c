/* H with duet's streams: duet_server, and a handler for each connection. */
#include "http.h"

#include "serve_streams.h"

int main(void)
{
    return serve_streams();
}
