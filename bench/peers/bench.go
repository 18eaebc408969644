// What the programs in Go share: as bench.h and bench.hpp have it. build.py builds it together with each of them.
package main

import (
	"fmt"
	"io"
	"net"
	"os"
	"runtime"
	"sort"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"time"
)

// Exit status: it has no such case.
const skip = 77

func text(key, otherwise string) string {
	for _, argument := range os.Args[1:] {
		if strings.HasPrefix(argument, key+"=") {
			return argument[len(key)+1:]
		}
	}
	return otherwise
}

func number(key string, otherwise int) int {
	value, err := strconv.Atoi(text(key, strconv.Itoa(otherwise)))
	need(err == nil, "an argument is a number")
	return value
}

func need(condition bool, what string) {
	if !condition {
		fmt.Fprintln(os.Stderr, "bench: failed:", what)
		os.Exit(1)
	}
}

func say(figure string, value float64) {
	fmt.Printf("%s %.4f\n", figure, value)
}

func sayQuantiles(prefix string, us []float64) {
	sort.Float64s(us)
	for _, q := range []struct {
		name string
		q    float64
	}{{"p50_us", 0.5}, {"p99_us", 0.99}, {"p999_us", 0.999}} {
		at := int(float64(len(us)) * q.q)
		if at >= len(us) {
			at = len(us) - 1
		}
		say(prefix+q.name, us[at])
	}
}

func usSince(begun time.Time) float64 {
	return float64(time.Since(begun).Nanoseconds()) / 1e3
}

// The loop: all goroutines on one thread.
func oneThread() {
	runtime.GOMAXPROCS(1)
}

// Does it once with a twentieth of the work to warm up, and measures it then.
func tookNs(work int, run func(int)) float64 {
	run(work / 20)
	begun := time.Now()
	run(work)
	return float64(time.Since(begun).Nanoseconds())
}

// W2 and W8: counts what ran, and knows when the last did.
type count struct {
	ran, goal int64
	done      chan time.Time
}

func newCount() *count {
	return &count{done: make(chan time.Time, 1)}
}

// Where one goroutine runs all.
func (c *count) ranInOne() {
	c.ran++
	if c.ran == c.goal {
		c.done <- time.Now()
	}
}

// Where several do.
func (c *count) ranInAny() {
	if atomic.AddInt64(&c.ran, 1) == c.goal {
		c.done <- time.Now()
	}
}

// produce(n) in so many goroutines, `total` in all; returns how long it took until the last ran.
func (c *count) took(producers, total int, produce func(int)) time.Duration {
	c.ran, c.goal = 0, int64(total)
	var all sync.WaitGroup
	begun := time.Now()
	for i := 0; i < producers; i++ {
		share := total*(i+1)/producers - total*i/producers
		all.Add(1)
		go func() {
			defer all.Done()
			produce(share)
		}()
	}
	all.Wait()
	ended := <-c.done
	return ended.Sub(begun)
}

func (c *count) measureRate(total int, produce func(int)) {
	producers := number("producers", 1)
	c.took(producers, total/20+1, produce)
	say("mps", float64(total)*1e3/float64(c.took(producers, total, produce).Nanoseconds()))
}

// W5, memory: bytes of VmRSS and VmPTE, the pages of this process and the tables of them.
func memory() map[string]float64 {
	status, err := os.ReadFile("/proc/self/status")
	need(err == nil, "/proc/self/status can be read")
	bytes := map[string]float64{}
	for _, line := range strings.Split(string(status), "\n") {
		if fields := strings.Fields(line); len(fields) == 3 && (fields[0] == "VmRSS:" || fields[0] == "VmPTE:") {
			kib, _ := strconv.ParseFloat(fields[1], 64)
			bytes[fields[0]] = kib * 1024
		}
	}
	return bytes
}

// What has come since then, for each of so many.
func sayMore(before map[string]float64, count int) {
	now := memory()
	say("bytes", (now["VmRSS:"]-before["VmRSS:"])/float64(count))
	say("tables_bytes", (now["VmPTE:"]-before["VmPTE:"])/float64(count))
}

// W6: CPU time of the process.
func cpuMs() float64 {
	var usage syscall.Rusage
	need(syscall.Getrusage(syscall.RUSAGE_SELF, &usage) == nil, "CPU time can be read")
	return float64(usage.Utime.Nano()+usage.Stime.Nano()) / 1e6
}

// xorshift64*, as in bench.h.
type random uint64

func newRandom() random {
	return 88172645463325252
}

func (r *random) next() uint32 {
	x := uint64(*r)
	x ^= x >> 12
	x ^= x << 25
	x ^= x >> 27
	*r = random(x)
	return uint32(x * 2685821657736338717 >> 32)
}

// A server's listener, with the system's backlog; it says its port. When standard input ends, so does the process.
func listen() net.Listener {
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	need(err == nil, "it can listen")
	fmt.Println("port", listener.Addr().(*net.TCPAddr).Port)
	go func() {
		io.Copy(io.Discard, os.Stdin)
		os.Exit(0)
	}()
	return listener
}
