// W2 in Go: functions through a channel with a bound to one goroutine; or a goroutine each, with a channel for its
// result. Producers are goroutines, as Go's users have no threads, and Go spreads all of them over its threads.
package main

import "os"

func main() {
	work := number("work", 2000000)
	counter := newCount()
	switch text("kind", "callback") {
	case "callback":
		inbox := make(chan func(), 1024)
		go func() {
			for function := range inbox {
				function()
			}
		}()
		callback := counter.ranInOne
		counter.measureRate(work, func(n int) {
			for ; n > 0; n-- {
				inbox <- callback
			}
		})
	case "task":
		counter.measureRate(work, func(n int) {
			for ; n > 0; n-- {
				result := make(chan int, 1)
				go func() {
					counter.ranInAny()
					result <- 1
				}()
			}
		})
	default:
		os.Exit(skip)
	}
}
