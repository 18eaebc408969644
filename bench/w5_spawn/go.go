// W5 in Go: goroutines on one thread. They have no handles: each leaves its result in a slice, and a WaitGroup tells
// when all have.
package main

import "sync"

func spawn(results []int) {
	var all sync.WaitGroup
	all.Add(len(results))
	for i := range results {
		go func(i int) {
			results[i] = 1
			all.Done()
		}(i)
	}
	all.Wait()
}

func main() {
	spawns, batch := number("spawns", 1000000), number("batch", 1000)
	oneThread()
	results := make([]int, batch)
	took := tookNs(spawns, func(n int) {
		ran := 0
		for left := n; left > 0; left -= batch {
			results := results[:]
			if left < batch {
				results = results[:left]
			}
			spawn(results)
			for i, result := range results {
				ran += result
				results[i] = 0
			}
		}
		need(ran == n, "all of them ran")
	})
	say("spawn_ns", took/float64(spawns))
}
