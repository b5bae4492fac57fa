package chaos

import (
	"context"
	"fmt"
	"io"
	"math/rand/v2"
	"net"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"lockstep/smr"
	"lockstep/smr/wire"
)

// proxy stands before every data and management port, and between each two configuration masters. Processes are told its addresses instead of the real ones, so that all
// links but those inside one machine pass it.
type proxy struct {
	owner func(net.Conn) string // who has the other end of a connection; nil: its first message says so

	wait sync.WaitGroup

	mu        sync.Mutex
	rng       *rand.Rand
	listeners []net.Listener
	pipes     map[*pipe]struct{}
	rules     []*rule
	changed   chan struct{} // closed and replaced with every change of rules
	closed    bool
}

// port of a target.
type port string

const (
	dataPort   port = "data"
	managePort port = "manage"
	peerPort   port = "peer" // between configuration masters
)

// rule is what happens to the links that it matches, for as long as it is in force.
type rule struct {
	// Nodes, or configuration masters ("c1") at their peer ports; "*" is any. The source of a management link is "confmaster".
	Source, Target string
	Port           port
	Cut            bool          // connections break, new ones too
	Forward        bool          // bytes from source to target wait
	Backward       bool          // bytes from target to source wait
	Delay          time.Duration // of every chunk, in both directions
	MidFrame       bool          // one chunk of eight ends in its midst, and the connection with it

	hits atomic.Int64 // connections broken, chunks held back or delayed: 0 says that the rule had no effect
}

func (r *rule) String() string {
	var what []string
	add := func(holds bool, text string) {
		if holds {
			what = append(what, text)
		}
	}
	add(r.Cut, "cut")
	add(r.Forward, "forward stalled")
	add(r.Backward, "backward stalled")
	add(r.Delay > 0, fmt.Sprintf("delayed by %v", r.Delay.Round(time.Millisecond)))
	add(r.MidFrame, "cut in the midst of a frame")
	return fmt.Sprintf("%s -> %s %s %s", r.Source, r.Target, r.Port, strings.Join(what, ", "))
}

// pipe is one connection through the proxy.
type pipe struct {
	source, target string
	port           port
	near, far      net.Conn
	done           chan struct{} // closed with it
	once           sync.Once
}

func (p *pipe) close() {
	p.once.Do(func() {
		close(p.done)
		p.near.Close()
		p.far.Close()
	})
}

func newProxy(seed uint64) *proxy {
	return &proxy{rng: rand.New(rand.NewPCG(seed, 7)), pipes: make(map[*pipe]struct{}), changed: make(chan struct{})}
}

// listen opens a port that leads to the port of a node at address, and returns its own address. source is who connects, ""
// if that is to be found out.
func (x *proxy) listen(source, node string, port port, address string) (string, error) {
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		return "", fmt.Errorf("proxy of the %s port of %s: %w", port, node, err)
	}
	x.mu.Lock()
	x.listeners = append(x.listeners, listener)
	x.mu.Unlock()
	x.wait.Go(func() {
		for {
			near, err := listener.Accept()
			if err != nil {
				return // closed
			}
			x.wait.Go(func() { x.serve(near, &pipe{source: source, target: node, port: port}, address) })
		}
	})
	return listener.Addr().String(), nil
}

// close ends all connections and waits until everything has ended.
func (x *proxy) close() {
	x.mu.Lock()
	x.closed = true
	for _, listener := range x.listeners {
		listener.Close()
	}
	for p := range x.pipes {
		p.close()
	}
	x.mu.Unlock()
	x.wait.Wait()
}

// apply puts rules in force and returns what takes them out again. Bytes that were held back arrive then, late, on
// connections that one side may have given up long ago: as after a real partition.
func (x *proxy) apply(rules ...*rule) (heal func()) {
	x.mu.Lock()
	defer x.mu.Unlock()
	x.rules = append(x.rules, rules...)
	x.changeLocked()
	for p := range x.pipes {
		for _, r := range rules {
			if r.Cut && r.matches(p) {
				r.hits.Add(1)
				p.close()
			}
		}
	}
	return func() {
		x.mu.Lock()
		defer x.mu.Unlock()
		kept := x.rules[:0:0]
		for _, r := range x.rules {
			over := false
			for _, mine := range rules {
				over = over || r == mine
			}
			if !over {
				kept = append(kept, r)
			}
		}
		x.rules = kept
		x.changeLocked()
	}
}

func (x *proxy) changeLocked() {
	close(x.changed)
	x.changed = make(chan struct{})
}

func (r *rule) matches(p *pipe) bool {
	return r.Port == p.port && (r.Target == "*" || r.Target == p.target) && (r.Source == "*" || r.Source == p.source)
}

// effect is what the rules in force do to a chunk of a pipe.
type effect struct {
	cut, stall bool
	midFrame   *rule
	delay      time.Duration
	changed    <-chan struct{}
}

func (x *proxy) effectOn(p *pipe, forward bool) effect {
	x.mu.Lock()
	defer x.mu.Unlock()
	e := effect{changed: x.changed}
	for _, r := range x.rules {
		if !r.matches(p) {
			continue
		}
		stalls := forward && r.Forward || !forward && r.Backward
		if r.Cut || stalls || r.Delay > 0 {
			r.hits.Add(1)
		}
		e.cut = e.cut || r.Cut
		e.stall = e.stall || stalls
		e.delay = max(e.delay, r.Delay)
		if r.MidFrame {
			e.midFrame = r
		}
	}
	return e
}

// serve carries one connection: near is its end here, and p says what else is known of it.
func (x *proxy) serve(near net.Conn, p *pipe, address string) {
	far, err := (&net.Dialer{Timeout: time.Second}).DialContext(context.Background(), "tcp", address)
	if err != nil {
		near.Close()
		return
	}
	p.near, p.far, p.done = near, far, make(chan struct{})
	defer p.close()
	x.mu.Lock()
	if x.closed {
		x.mu.Unlock()
		return
	}
	x.pipes[p] = struct{}{}
	x.mu.Unlock()
	defer func() {
		x.mu.Lock()
		delete(x.pipes, p)
		x.mu.Unlock()
	}()

	first := x.introduce(p)
	x.wait.Go(func() {
		defer p.close()
		x.pump(p, false, nil)
	})
	x.pump(p, true, first)
}

// introduce finds out who the source is, by the hello of a data connection, or by whose socket it is where the hello cannot be read. It returns the bytes read.
func (x *proxy) introduce(p *pipe) []byte {
	if p.source != "" {
		return nil
	}
	var first []byte
	var source string
	if x.owner != nil {
		source = x.owner(p.near)
	} else {
		first, source = readHello(p.near)
	}
	x.mu.Lock()
	p.source = source
	x.mu.Unlock()
	return first
}

// readHello reads the first message of a connection and tells from which node it comes, "" if that cannot be told.
func readHello(source io.Reader) (message []byte, node string) {
	header := make([]byte, wire.PrefixSize)
	n, err := io.ReadFull(source, header)
	if err != nil {
		return header[:n], ""
	}
	size, err := wire.Size(header, wire.HelloLimit)
	if err != nil {
		return header, ""
	}
	message = append(header, make([]byte, size-len(header))...)
	n, err = io.ReadFull(source, message[len(header):])
	if err != nil {
		return message[:len(header)+n], ""
	}
	decoded, err := wire.Decode(message)
	if err != nil {
		return message, ""
	}
	switch hello := decoded.(type) {
	case *smr.SlaveHello:
		return message, string(hello.Node)
	case *smr.ClientHello:
		return message, string(hello.Node)
	}
	return message, ""
}

// chunkSize bounds what is read at once.
const chunkSize = 32 << 10

// pump carries bytes in one direction until the connection ends.
func (x *proxy) pump(p *pipe, forward bool, first []byte) {
	source, target := p.near, p.far
	if !forward {
		source, target = p.far, p.near
	}
	buffer := make([]byte, chunkSize)
	chunk := first
	for {
		if len(chunk) > 0 && !x.pass(p, forward, target, chunk) {
			return
		}
		n, err := source.Read(buffer)
		if err != nil {
			return
		}
		chunk = buffer[:n]
	}
}

// pass carries one chunk, as the rules in force have it. It reports whether the connection lives on.
func (x *proxy) pass(p *pipe, forward bool, target net.Conn, chunk []byte) bool {
	e := x.effectOn(p, forward)
	for e.stall && !e.cut {
		select {
		case <-e.changed:
			e = x.effectOn(p, forward)
		case <-p.done:
			return false
		}
	}
	if e.cut {
		return false
	}
	if e.delay > 0 && !x.delay(p, e.delay) {
		return false
	}
	if e.midFrame != nil && len(chunk) > 1 && x.draw(8) == 0 {
		e.midFrame.hits.Add(1)
		target.Write(chunk[:1+x.draw(len(chunk)-1)]) // the connection ends in any case
		return false
	}
	_, err := target.Write(chunk)
	return err == nil
}

func (x *proxy) draw(n int) int {
	x.mu.Lock()
	defer x.mu.Unlock()
	return x.rng.IntN(n)
}

func (x *proxy) delay(p *pipe, d time.Duration) bool {
	timer := time.NewTimer(d)
	defer timer.Stop()
	select {
	case <-timer.C:
		return true
	case <-p.done:
		return false
	}
}
