// W6 in Go: AfterFunc, or a goroutine each that sleeps; on one thread, as the other loops.
package main

import (
	"sync"
	"time"
)

type timers struct {
	lengths []time.Duration
	due     []time.Time
	lateUs  []float64
	all     sync.WaitGroup
}

func newTimers(n, spanMs int) *timers {
	t := &timers{lengths: make([]time.Duration, n), due: make([]time.Time, n), lateUs: make([]float64, n)}
	numbers := newRandom()
	for i := range t.lengths {
		t.lengths[i] = time.Duration(1+int(numbers.next())%spanMs) * time.Millisecond
	}
	t.all.Add(n)
	return t
}

func (t *timers) fired(i int) {
	t.lateUs[i] = usSince(t.due[i])
	t.all.Done()
}

func (t *timers) callback(i int) {
	t.due[i] = time.Now().Add(t.lengths[i])
	time.AfterFunc(t.lengths[i], func() { t.fired(i) })
}

func (t *timers) sleep(i int) {
	go func() {
		t.due[i] = time.Now().Add(t.lengths[i])
		time.Sleep(t.lengths[i])
		t.fired(i)
	}()
}

// Milliseconds of CPU time.
func (t *timers) run(kind string) float64 {
	begun := cpuMs()
	for i := range t.lengths {
		if kind == "sleep" {
			t.sleep(i)
		} else {
			t.callback(i)
		}
	}
	t.all.Wait()
	return cpuMs() - begun
}

func main() {
	n, spanMs, kind := number("timers", 100000), number("span_ms", 1000), text("kind", "callback")
	oneThread()
	newTimers(n/20+1, spanMs/20+1).run(kind)
	t := newTimers(n, spanMs)
	cpu := t.run(kind)
	early := 0
	for _, us := range t.lateUs {
		if us < 0 {
			early++
		}
	}
	say("cpu_ms", cpu)
	say("early", float64(early))
	sayQuantiles("late_", t.lateUs)
}
