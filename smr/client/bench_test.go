package client

import (
	"context"
	"fmt"
	"sync"
	"testing"

	"lockstep/smr"
)

// BenchmarkSubmit measures requests of 50 bytes that go to a master on loopback, into a log that is not synced, and are
// executed. Each caller waits for its reply before it submits again, or for its last 16. The master runs in the same
// process.
func BenchmarkSubmit(b *testing.B) {
	for _, c := range []struct{ callers, pipeline int }{{1, 1}, {50, 1}, {50, 16}, {1000, 1}} {
		b.Run(fmt.Sprintf("callers=%d/pipeline=%d", c.callers, c.pipeline), func(b *testing.B) {
			g := newGroup(b)
			g.serveLocal()
			g.lead("n2", 1)
			machine := &reel{}
			client, stop := startReel(b, testConfig(g), machine)
			defer stop()
			b.ReportAllocs()
			b.ResetTimer()
			var tasks sync.WaitGroup
			for caller := range c.callers {
				share := b.N / c.callers
				if caller < b.N%c.callers {
					share++
				}
				tasks.Go(func() { submitAll(client, share, c.pipeline) })
			}
			tasks.Wait()
			b.ReportMetric(float64(b.N)/b.Elapsed().Seconds(), "requests/s")
		})
	}
}

func submitAll(client *Client, number, pipeline int) {
	payload := make([]byte, 50)
	waiting := &tally{wake: make(chan struct{}, 1)}
	for number > 0 {
		batch := min(number, pipeline)
		number -= batch
		waiting.left = batch
		for range batch {
			client.Submit(5, 0, payload, waiting)
		}
		<-waiting.wake
	}
}

// tally waits for a number of requests. Only the apply loop counts.
type tally struct {
	left int
	wake chan struct{}
}

func (w *tally) Finish(Outcome) { panic("not executed") }

// reel is a Machine that only answers.
type reel struct {
	client *Client
	table  smr.SessionTable
}

func (m *reel) Prompt(smr.Frame) bool { return true }

func (m *reel) ApplyFrame(f smr.Frame) error {
	rest := f.Body
	for range f.Count {
		var request smr.Request
		var err error
		if request, rest, err = smr.CutRequest(rest); err != nil {
			return err
		}
		if m.table.Admit(request.Session, request.Sequence, f.LSN) != smr.Execute {
			continue
		}
		waiting := m.client.Take(request.Sequence).(*tally)
		if waiting.left--; waiting.left == 0 {
			waiting.wake <- struct{}{}
		}
	}
	return nil
}

func (m *reel) StatusChanged(smr.Status) {}

func startReel(b *testing.B, config Config, machine *reel) (*Client, func()) {
	client, err := New(config, machine)
	if err != nil {
		b.Fatal(err)
	}
	machine.client = client
	return client, runUntilStopped(b, client)
}

// BenchmarkReadIndex measures reads that share questions.
func BenchmarkReadIndex(b *testing.B) {
	g := newGroup(b)
	g.serveLocal()
	g.lead("n2", 1)
	client, stop := startReel(b, testConfig(g), &reel{})
	defer stop()
	b.ReportAllocs()
	const callers = 50
	var tasks sync.WaitGroup
	for range callers {
		tasks.Go(func() {
			wake := make(chan struct{}, 1)
			done := func(smr.LSN, error) { wake <- struct{}{} }
			for range b.N / callers {
				client.ReadIndex(done)
				<-wake
			}
		})
	}
	tasks.Wait()
	b.ReportMetric(float64(b.N)/b.Elapsed().Seconds(), "reads/s")
}

func runUntilStopped(b *testing.B, client *Client) func() {
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error, 1)
	go func() { done <- client.Run(ctx) }()
	until(b, "connected", func() bool { return client.Stats().Master != "" })
	return func() {
		b.StopTimer()
		cancel()
		if err := <-done; err != nil {
			b.Error(err)
		}
	}
}
