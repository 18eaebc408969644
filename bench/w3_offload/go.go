// W3 in Go: goroutines send jobs through a channel to a pool of others, and wait for the result. Whether that leaves
// the thread is for Go to decide: whatever blocks would block one goroutine only.
package main

import (
	"sync"
	"time"
)

type job struct {
	function func() int
	result   chan int
}

func one() int {
	return 1
}

// What the goroutines have done together; the first ones warm up.
type offloads struct {
	sync.Mutex
	total, left, done int
	begun, ended      time.Time
	us                []float64
}

func (o *offloads) take() bool {
	o.Lock()
	defer o.Unlock()
	if o.left == 0 {
		return false
	}
	if o.left == o.total {
		o.begun = time.Now()
	}
	o.left--
	return true
}

func (o *offloads) came(begun time.Time) {
	o.Lock()
	defer o.Unlock()
	o.ended = time.Now()
	o.done++
	if o.done > o.total/20 {
		o.us = append(o.us, float64(o.ended.Sub(begun).Nanoseconds())/1e3)
	}
}

func offload(o *offloads, pool chan job, all *sync.WaitGroup) {
	defer all.Done()
	result := make(chan int, 1)
	for o.take() {
		begun := time.Now()
		pool <- job{one, result}
		need(<-result == 1, "the job ran")
		o.came(begun)
	}
}

func main() {
	pool := make(chan job, 1024)
	for i := number("workers", 2); i > 0; i-- {
		go func() {
			for j := range pool {
				j.result <- j.function()
			}
		}()
	}
	total := number("offloads", 20000)
	o := &offloads{total: total, left: total + total/20, us: make([]float64, 0, total)}
	var all sync.WaitGroup
	for i := number("at_once", 1); i > 0; i-- {
		all.Add(1)
		go offload(o, pool, &all)
	}
	all.Wait()
	need(o.done == total+total/20, "all offloads came back")
	sayQuantiles("", o.us)
	say("mps", float64(total)*1e3/float64(o.ended.Sub(o.begun).Nanoseconds()))
}
