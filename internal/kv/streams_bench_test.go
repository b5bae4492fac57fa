package kv

import (
	"runtime"
	"strconv"
	"testing"

	"lockstep/internal/resp"
	"lockstep/smr"
)

const benchmarkEntries = 1_000_000

// feeder applies commands, each as a frame of its own, a millisecond apart.
type feeder struct {
	machine  *Machine
	sequence uint64
	reply    resp.Reply
}

func (f *feeder) apply(payload []byte) {
	f.sequence++
	f.reply.Reset()
	at := Instant{LSN: smr.LSN(f.sequence * 200), Stamp: int64(1_700_000_000_000 + f.sequence)}
	f.machine.Apply(at, smr.Request{Session: 1, Slot: smr.NoSlot, Sequence: f.sequence, Payload: payload}, &f.reply)
	f.machine.Advance(at.Stamp, at.LSN+200)
}

var addPayload = AppendCommand(nil, bytesOf([]string{"XADD", "s", "*", "sensor", "17", "temperature", "21.5", "text", "hello world"}))

// millionEntries returns a machine with a stream of a million entries of three fields.
func millionEntries() *feeder {
	f := &feeder{machine: New()}
	for range benchmarkEntries {
		f.apply(addPayload)
	}
	return f
}

func BenchmarkStreamAdd(b *testing.B) {
	f := millionEntries()
	b.ReportAllocs()
	for b.Loop() {
		f.apply(addPayload)
	}
}

func BenchmarkStreamAddTrimmed(b *testing.B) {
	f := &feeder{machine: New()}
	payload := AppendCommand(nil, bytesOf([]string{"XADD", "s", "MAXLEN", "~", "10000", "*", "sensor", "17", "temperature", "21.5", "text", "hello world"}))
	b.ReportAllocs()
	for b.Loop() {
		f.apply(payload)
	}
}

// Ten entries from anywhere in a million.
func BenchmarkStreamRange10(b *testing.B) {
	f := millionEntries()
	var reply resp.Reply
	b.ReportAllocs()
	for i := 0; b.Loop(); i++ {
		reply.Reset()
		start := strconv.Itoa(1_700_000_000_000 + i*7919%benchmarkEntries)
		f.machine.Read(0, bytesOf([]string{"XRANGE", "s", start, "+", "COUNT", "10"}), &reply)
	}
}

// A consumer takes an entry out of a million and acknowledges it, while 100 000 others are pending.
func BenchmarkStreamReadGroupAck(b *testing.B) {
	f := millionEntries()
	for _, command := range [][]string{{"XGROUP", "CREATE", "s", "g", "0"}, {"XREADGROUP", "GROUP", "g", "idle", "COUNT", "100000", "STREAMS", "s", ">"}} {
		f.apply(AppendCommand(nil, bytesOf(command)))
	}
	read := AppendCommand(nil, bytesOf([]string{"XREADGROUP", "GROUP", "g", "c", "COUNT", "1", "STREAMS", "s", ">"}))
	rewind := AppendCommand(nil, bytesOf([]string{"XGROUP", "SETID", "s", "g", "1700000100001"}))
	b.ReportAllocs()
	for b.Loop() {
		f.apply(read)
		if f.reply.Buf[1] == '-' { // the end of the stream
			f.apply(rewind)
			f.apply(read)
		}
		v, _, err := resp.Decode(f.reply.Buf)
		if err != nil {
			b.Fatal(err)
		}
		id := v.Items[0].Items[1].Items[0].Items[0].Text
		f.apply(AppendCommand(nil, bytesOf([]string{"XACK", "s", "g", id})))
	}
}

// Bytes of memory for an entry of three fields, and for a pending one.
func BenchmarkStreamMemory(b *testing.B) {
	for b.Loop() {
		var before, filled, pending runtime.MemStats
		runtime.GC()
		runtime.ReadMemStats(&before)
		f := millionEntries()
		f.reply = resp.Reply{}
		runtime.GC()
		runtime.ReadMemStats(&filled)
		for _, command := range [][]string{{"XGROUP", "CREATE", "s", "g", "0"}, {"XREADGROUP", "GROUP", "g", "c", "STREAMS", "s", ">"}} {
			f.apply(AppendCommand(nil, bytesOf(command)))
		}
		f.reply = resp.Reply{}
		runtime.GC()
		runtime.ReadMemStats(&pending)
		b.ReportMetric(float64(filled.HeapAlloc-before.HeapAlloc)/benchmarkEntries, "B/entry")
		b.ReportMetric(float64(pending.HeapAlloc-filled.HeapAlloc)/benchmarkEntries, "B/pending")
		b.ReportMetric(float64(f.machine.databases[0].keys.findText("s").value.object().size())/benchmarkEntries, "B/estimated")
	}
}
