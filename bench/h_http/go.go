// H in Go: net/http, on one thread. TCP_NODELAY is Go's default.
package main

import "net/http"

var hello = []byte("Hello, world!")

func main() {
	oneThread()
	http.Serve(listen(), http.HandlerFunc(func(answer http.ResponseWriter, request *http.Request) {
		answer.Header().Set("Content-Type", "text/plain")
		answer.Header().Set("Content-Length", "13")
		answer.Write(hello)
	}))
}
