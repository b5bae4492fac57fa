package rules

import (
	"fmt"
	"maps"
	"math/rand/v2"
	"os"   // want "imports os"
	"sync" // want "imports sync"
	"time"
)

var lock sync.Mutex

func clock() time.Time { return time.Now() } // want "uses time.Now"

func wait(c chan int) { // want "uses a channel"
	select { // want "waits on channels"
	case <-c:
	}
}

func start() {
	go clock() // want "starts a goroutine"
}

func draw() int { return rand.Int() + os.Getpid() } // want "uses math/rand/v2.Int"

func drawSeeded() int { return rand.New(rand.NewPCG(1, 2)).Int() }

func say() {
	fmt.Println("x") // want "uses fmt.Println"
	println("x")     // want "a pure package prints"
}

type table map[string]int

func ranges(t table, s []int) (sum int) {
	for _, n := range t { // want "ranges over a map"
		sum += n
	}
	for _, n := range t { // a sum: the order does not matter
		sum += n
	}
	for _, n := range s {
		sum += n
	}
	for n := range maps.Values(t) { // want "uses maps.Values"
		sum += n
	}
	return sum
}
