// Package parts measures parts of Lockstep inside of one process: how fast a log is executed and read. It knows the packages that it
// measures; internal/bench, which measures from outside, only calls it.
package parts

import (
	"errors"
	"fmt"
	"syscall"
	"time"

	"lockstep/internal/kv"
	"lockstep/log"
	"lockstep/smr"
)

// Figures are of one measurement. CPU is the processor time of this process meanwhile, garbage collection included.
type Figures struct {
	Amount    int64 // commands, or bytes
	Wall, CPU time.Duration
}

// measure runs work, which returns how much it did.
func measure(work func() (int64, error)) (Figures, error) {
	begun, used := time.Now(), processorTime()
	amount, err := work()
	return Figures{Amount: amount, Wall: time.Since(begun), CPU: processorTime() - used}, err
}

func processorTime() time.Duration {
	var u syscall.Rusage
	if syscall.Getrusage(syscall.RUSAGE_SELF, &u) != nil {
		return 0
	}
	return time.Duration(u.Utime.Nano() + u.Stime.Nano())
}

const (
	// requestsEach is how many requests a frame holds, as under load.
	requestsEach = 64
	replayValue  = 64 // bytes
)

// Replay measures how fast a new machine executes a log of so many SETs of 64 bytes, a tenth as many keys; checked and decoded as a KV
// node does that starts.
func Replay(commands int) (Figures, error) {
	stream := logOf(commands, max(1, commands/10))
	return measure(func() (int64, error) { return int64(commands), replay(stream) })
}

func logOf(commands, keys int) []byte {
	var stream, body, payload []byte
	value := make([]byte, replayValue)
	for i := 0; i < commands; {
		body = body[:0]
		count := min(requestsEach, commands-i)
		for range count {
			payload = kv.AppendCommand(payload[:0], [][]byte{[]byte("SET"), fmt.Appendf(nil, "key:%012d", i*7919%keys), value})
			body = smr.AppendRequest(body, smr.Request{Session: smr.SessionID(1 + i%16), Slot: smr.NoSlot, Sequence: uint64(1 + i/16), Payload: payload})
			i++
		}
		stream = smr.AppendFrame(stream, smr.Frame{LSN: smr.LSN(len(stream)), Epoch: 1, Stamp: int64(1_000_000 + i), Kind: smr.KindRequests, Count: count, Body: body})
	}
	return stream
}

func replay(stream []byte) error {
	m := kv.New()
	for at := 0; at < len(stream); {
		f, err := smr.DecodeFrame(stream[at:], smr.LSN(at))
		if err != nil {
			return err
		}
		rest := f.Body
		for i := range f.Count {
			var request smr.Request
			if request, rest, err = smr.CutRequest(rest); err != nil {
				return err
			}
			if m.Apply(kv.Instant{LSN: f.LSN, Index: i, Stamp: f.Stamp}, request, nil) != smr.Execute {
				return errors.New("a request of the log was not executed")
			}
		}
		m.Advance(f.Stamp, f.End())
		at = int(f.End())
	}
	return nil
}

// Scan measures how fast a log of so many bytes, made in an empty directory, is read when the system has it in memory: every page's and
// every frame's checksum is compared.
func Scan(dir string, bytes int64) (f Figures, err error) {
	l, _, err := log.Open(log.Options{Dir: dir, Cluster: "bench", Group: "bench", Sync: smr.SyncOS})
	if err != nil {
		return f, err
	}
	defer func() { err = errors.Join(err, l.Close()) }()
	if err := writeLog(l, smr.LSN(bytes)); err != nil {
		return f, err
	}
	reader, err := log.OpenReader(nil, dir)
	if err != nil {
		return f, err
	}
	defer func() { err = errors.Join(err, reader.Close()) }()
	buffer := make([]byte, 256<<10)
	return measure(func() (int64, error) {
		for next := smr.LSN(0); next < l.End(); {
			if next, buffer, err = reader.Frames(buffer, next, l.End(), func(smr.Frame, []byte) error { return nil }); err != nil {
				return 0, err
			}
		}
		return int64(l.End()), nil
	})
}

func writeLog(l *log.Log, size smr.LSN) error {
	config := smr.Config{Epoch: 1, Reign: 1, Master: "n1", Copies: 1, Members: []smr.Member{{Node: "n1", Incarnation: 1}}}
	if err := l.Append(smr.AppendFrame(nil, smr.Frame{Epoch: 1, Stamp: 1, Kind: smr.KindEpochStart, Body: smr.AppendConfig(nil, config)})); err != nil {
		return err
	}
	body := smr.AppendRequest(nil, smr.Request{Session: 1, Sequence: 1, Payload: make([]byte, 512-smr.HeaderSize-smr.RequestHeaderSize)})
	var batch []byte
	for l.End() < size {
		batch = batch[:0]
		for len(batch) < 1<<20 {
			batch = smr.AppendFrame(batch, smr.Frame{LSN: l.End() + smr.LSN(len(batch)), Epoch: 1, Stamp: 1, Kind: smr.KindRequests, Count: 1, Body: body})
		}
		if err := l.Append(batch); err != nil {
			return err
		}
	}
	return nil
}
