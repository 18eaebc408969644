// W8 in Go: functions through a channel with a bound to so many goroutines. They have no future.
package main

func main() {
	counter := newCount()
	pool := make(chan func(), 1024)
	for i := number("workers", 2); i > 0; i-- {
		go func() {
			for job := range pool {
				job()
			}
		}()
	}
	job := counter.ranInAny
	counter.measureRate(number("jobs", 1000000), func(n int) {
		for ; n > 0; n-- {
			pool <- job
		}
	})
}
