// W4 in Go: two goroutines on one thread, with Gosched.
package main

import (
	"runtime"
	"sync"
)

func main() {
	yields := number("yields", 2000000)
	oneThread()
	took := tookNs(yields, func(n int) {
		yielded := 0
		var both sync.WaitGroup
		both.Add(2)
		for i := 0; i < 2; i++ {
			go func() {
				defer both.Done()
				for left := n / 2; left > 0; left-- {
					runtime.Gosched()
					yielded++
				}
			}()
		}
		both.Wait()
		need(yielded == n/2*2, "all yields were done")
	})
	say("yield_ns", took/float64(yields))
}
