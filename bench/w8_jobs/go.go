// W8 in Go: functions through a channel with a bound to so many goroutines, each with a channel for its result, which
// is what Go has for a future, and which is let go.
package main

type job struct {
	function func() int
	result   chan int
}

func main() {
	counter := newCount()
	pool := make(chan job, 1024)
	for i := number("workers", 2); i > 0; i-- {
		go func() {
			for j := range pool {
				j.result <- j.function()
			}
		}()
	}
	empty := func() int {
		counter.ranInAny()
		return 1
	}
	counter.measureRate(number("jobs", 1000000), func(n int) {
		for ; n > 0; n-- {
			pool <- job{empty, make(chan int, 1)}
		}
	})
}
