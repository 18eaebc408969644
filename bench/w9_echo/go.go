// W9 in Go: a goroutine each connection, on one thread. TCP_NODELAY is Go's default.
package main

import "net"

func echo(connection net.Conn) {
	defer connection.Close()
	bytes := make([]byte, 64)
	for {
		n, err := connection.Read(bytes)
		if err != nil {
			return
		}
		if _, err = connection.Write(bytes[:n]); err != nil {
			return
		}
	}
}

func main() {
	oneThread()
	listener := listen()
	for {
		if connection, err := listener.Accept(); err == nil {
			go echo(connection)
		}
	}
}
