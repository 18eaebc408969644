// W7 in Go: three goroutines on one thread, with its channels.
package main

func run(items, room int) (count, sum int) {
	numbers, sums := make(chan int, room), make(chan int, room)
	go func() {
		for i := 0; i < items; i++ {
			numbers <- i
		}
		close(numbers)
	}()
	go func() {
		for number := range numbers {
			sums <- number + 1
		}
		close(sums)
	}()
	for number := range sums {
		count++
		sum += number
	}
	return
}

func main() {
	items, room := number("items", 1000000), number("room", 100)
	oneThread()
	took := tookNs(items, func(n int) {
		count, sum := run(n, room)
		need(count == n && sum == n*(n+1)/2, "each item reached the end")
	})
	say("mps", float64(items)*1e3/took)
}
