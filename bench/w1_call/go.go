// W1 in Go: two goroutines, each locked to a thread of its own, as the call is to be from one thread to another; one
// sends a function with a channel for its result, and waits for it.
package main

import (
	"os"
	"runtime"
	"time"
)

type call struct {
	function func() int
	result   chan int
}

func trivial() int {
	return 1
}

func loop(inbox chan call) {
	runtime.LockOSThread()
	for c := range inbox {
		c.result <- c.function()
	}
}

func main() {
	if number("spin", 1) == 0 {
		os.Exit(skip)
	}
	calls := number("calls", 20000)
	gap := time.Duration(number("gap_us", 0)) * time.Microsecond
	inbox := make(chan call)
	go loop(inbox)
	runtime.LockOSThread()
	us := make([]float64, 0, calls)
	for i := -calls / 20; i < calls; i++ {
		if gap > 0 {
			time.Sleep(gap)
		}
		begun := time.Now()
		result := make(chan int, 1)
		inbox <- call{trivial, result}
		need(<-result == 1, "each call has its result")
		if i >= 0 {
			us = append(us, usSince(begun))
		}
	}
	sayQuantiles("", us)
}
