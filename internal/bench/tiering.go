package bench

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"net"
	"strings"
	"time"

	"lockstep/internal/local"
	"lockstep/internal/pause"
)

const (
	// tierShare is how many times its bound a node's data is.
	tierShare = 4
	// tierValue is the size of values in bytes: keys, which stay in memory, are a small part beside.
	tierValue = 2000
)

// coldRead fills one node with four times of what it may keep in memory, and reads single keys, drawn. How the bound is kept to is in the notes: the
// estimate of keys and values, and what the process really has.
func coldRead(ctx context.Context, e *Env) (o Outcome, err error) {
	bound := int64(64 << 20)
	if e.Small {
		bound = local.MinTierMemory
	}
	running, err := e.StartLockstep(ctx, "tiering", local.Options{Replicas: 1, Confmasters: 1, Copies: 1, TierMemory: bound}, nil)
	if err != nil {
		return o, err
	}
	defer func() { err = errors.Join(err, running.Stop()) }()
	l := newLifecycle(e, running.Cluster)
	l.keys = int(tierShare * bound / tierValue)
	addr := running.Cluster.Plan.Replicas[0].KVAddr
	next := 0
	err = pour(ctx, addr, func(b []byte) ([]byte, bool) {
		if next == l.keys {
			return b, false
		}
		next++
		return l.long(b, next-1), true
	})
	if err == nil {
		_, err = ask(ctx, addr, "SAVE")
		for err != nil && strings.Contains(err.Error(), "already in progress") && pause.For(ctx, 100*time.Millisecond) {
			_, err = ask(ctx, addr, "SAVE") // the node writes one of its own
		}
	}
	if err != nil {
		return o, fmt.Errorf("fill: %w", err)
	}
	var reads Histogram
	began, until := time.Now(), 2*e.Time
	before, err := infoNumber(ctx, addr, "tiering_reads_back")
	if err != nil {
		return o, err
	}
	conn, err := new(net.Dialer).DialContext(ctx, "tcp", addr)
	if err != nil {
		return o, err
	}
	defer conn.Close()
	defer context.AfterFunc(ctx, func() { conn.Close() })()
	reader := bufio.NewReaderSize(conn, 64<<10)
	count := int64(0)
	for ; time.Since(began) < until; count++ {
		sent := time.Now()
		if _, err := conn.Write(appendCommand(nil, "GET", lifecycleKey(nil, l.dice.IntN(l.keys)))); err != nil {
			return o, err
		}
		if err := skipBulk(reader); err != nil {
			return o, err
		}
		reads.Add(time.Since(sent), 1)
	}
	after, err := infoNumber(ctx, addr, "tiering_reads_back")
	if err != nil {
		return o, err
	}
	resident, err := infoNumber(ctx, addr, "tiering_resident_bytes")
	if err != nil {
		return o, err
	}
	o.Value = micros(reads.Quantile(0.5)) / 1000
	o.Measured = fmt.Sprintf("p99 %.2f ms; %.0f %% read from the image", micros(reads.Quantile(0.99))/1000, 100*float64(after-before)/float64(max(count, 1)))
	pid := running.Cluster.Pid(local.KVNodeOf(running.Cluster.Plan.Replicas[0].Node))
	o.Notes = append(o.Notes, fmt.Sprintf("bound %d MiB: keys and values take %.1f MiB by estimate, the process %.1f MiB, and %.1f MiB at most",
		bound>>20, float64(resident)/(1<<20), float64(residentSize(pid))/(1<<20), float64(procNumber(pid, "status", "VmHWM"))/(1<<20)))
	return o, nil
}

// long appends a command that sets a key to tierValue bytes that cannot be compressed.
func (l *lifecycle) long(b []byte, key int) []byte {
	value := make([]byte, 0, tierValue+8)
	for len(value) < tierValue {
		n := l.dice.Uint64()
		for j := range 8 {
			value = append(value, byte(n>>(8*j)))
		}
	}
	return appendCommand(b, "SET", lifecycleKey(nil, key), value[:tierValue])
}

// skipBulk reads the reply to a GET of a key that is there.
func skipBulk(r *bufio.Reader) error {
	line, err := r.ReadString('\n')
	if err != nil {
		return err
	}
	var size int
	if _, err := fmt.Sscanf(line, "$%d", &size); err != nil || size < 0 {
		return fmt.Errorf("GET is answered %s", strings.TrimSpace(line))
	}
	_, err = r.Discard(size + 2)
	return err
}
