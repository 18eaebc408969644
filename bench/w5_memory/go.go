// W5, memory, in Go: goroutines that sleep.
package main

import (
	"os"
	"sync/atomic"
	"time"
)

func main() {
	sleepers := number("sleepers", 100000)
	var sleeping int64
	before := memory()
	for i := 0; i < sleepers; i++ {
		go func() {
			atomic.AddInt64(&sleeping, 1)
			time.Sleep(time.Hour)
		}()
	}
	for atomic.LoadInt64(&sleeping) < int64(sleepers) {
		time.Sleep(time.Millisecond)
	}
	time.Sleep(100 * time.Millisecond) // the last of them counted, and falls asleep
	sayMore(before, sleepers)
	os.Exit(0)
}
