package replicator

import (
	"bytes"
	"fmt"
	"hash/crc32"
	"net"
	"strings"
	"testing"

	"lockstep/smr"
	"lockstep/smr/replica"
	"lockstep/smr/wire"

	"pgregory.net/rapid"

	"lockstep/internal/steady"
)

var _ = steady.Draws()

func castagnoliOf(b []byte) uint32 { return crc32.Checksum(b, crc32.MakeTable(crc32.Castagnoli)) }

func testFrame(lsn smr.LSN, payload int) []byte {
	body := smr.AppendRequest(nil, smr.Request{Session: 1, Sequence: 1, Slot: smr.NoSlot, Payload: bytes.Repeat([]byte{byte(lsn)}, payload)})
	return smr.AppendFrame(nil, smr.Frame{LSN: lsn, Epoch: 1, Kind: smr.KindRequests, Count: 1, Body: body})
}

// Property against a naive twin: whatever is appended, rewound and evicted, take hands out exactly the bytes of the log,
// in whole frames, or says that they are in files, and only if they are. What could go wrong: a feeder sends bytes of
// another LSN, half frames, or reads from files what is not written yet.
func TestStreamHandsOutTheLog(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		d := &disk{}
		s := newStream(d, 0)
		s.keepBytes = 64 << 10
		var whole []byte             // the naive twin: all bytes
		boundaries := []int{0}       // of frames
		chunkEnd := map[int]uint64{} // end of each chunk -> ticket
		ticket := uint64(0)
		for range rapid.IntRange(1, 40).Draw(t, "steps") {
			ticket++
			switch rapid.IntRange(0, 5).Draw(t, "kind") {
			default:
				var chunk []byte
				for range rapid.IntRange(1, 4).Draw(t, "frames") {
					payload := rapid.SampledFrom([]int{0, 10, 500, 20 << 10}).Draw(t, "payload")
					chunk = append(chunk, testFrame(smr.LSN(len(whole)+len(chunk)), payload)...)
					boundaries = append(boundaries, len(whole)+len(chunk))
				}
				whole = append(whole, chunk...)
				chunkEnd[len(whole)] = ticket
				s.publish([]replica.DiskOp{{Ticket: ticket, Append: chunk}}, 1, smr.LSN(ticket))
			case 0:
				i := rapid.IntRange(0, len(boundaries)-1).Draw(t, "rewind")
				to := boundaries[i]
				boundaries, whole = boundaries[:i+1], whole[:to]
				s.publish([]replica.DiskOp{{Ticket: ticket, Rewind: &replica.Rewind{To: smr.LSN(to)}}}, 1, smr.LSN(ticket))
			case 1:
				d.executed.Store(rapid.Uint64Range(d.executed.Load(), ticket).Draw(t, "executed"))
				s.publish(nil, 1, smr.LSN(ticket))
			}
			checkTake(t, s, d, whole, boundaries, chunkEnd, ticket)
		}
	})
}

func checkTake(t *rapid.T, s *stream, d *disk, whole []byte, boundaries []int, chunkEnd map[int]uint64, ticket uint64) {
	from := boundaries[rapid.IntRange(0, len(boundaries)-1).Draw(t, "from")]
	limit := rapid.SampledFrom([]int{1, 200, 30 << 10}).Draw(t, "limit")
	got, _ := s.take(smr.LSN(from), limit, nil)
	if got.epoch != 1 || got.commit != smr.LSN(ticket) {
		t.Fatalf("label %d %d", got.epoch, got.commit)
	}
	switch {
	case from == len(whole):
		if len(got.frames) != 0 || got.filesUpTo > smr.LSN(from) {
			t.Fatalf("bytes beyond the end: %+v", got)
		}
	case got.filesUpTo > smr.LSN(from):
		if chunkEnd[int(got.filesUpTo)] > d.executed.Load() {
			t.Fatalf("up to %d is in files, but only ticket %d is executed", got.filesUpTo, d.executed.Load())
		}
	default:
		end := from + len(got.frames)
		if len(got.frames) == 0 || !bytes.Equal(got.frames, whole[from:end]) {
			t.Fatalf("take from %d gives %d other bytes", from, len(got.frames))
		}
		frames := 0
		for rest := got.frames; len(rest) > 0; frames++ {
			size, err := smr.PeekFrame(rest)
			if err != nil || size > len(rest) {
				t.Fatalf("half a frame from %d to %d: %v", from, end, err)
			}
			rest = rest[size:]
		}
		if frames > 1 && len(got.frames) > limit {
			t.Fatalf("%d frames of %d bytes, limit %d", frames, len(got.frames), limit)
		}
	}
}

// Heartbeats and acknowledgements replace each other so that a slow peer costs nothing; anything else is kept in order,
// and a peer that lets too much gather is hung up.
func TestLinkQueueIsBounded(t *testing.T) {
	conn := &closeOnly{}
	l := newLink(1, conn, "n2", nil, nil)
	for i := range 1000 {
		l.send(&smr.Heartbeat{Round: uint64(i)})
	}
	l.send(&smr.Ack{})
	l.send(&smr.Heartbeat{Round: 2000})
	queued, _, _, _ := l.takeQueued(nil)
	closed := l.isClosed()
	if len(queued) != 3 || closed || queued[0].(*smr.Heartbeat).Round != 999 || queued[2].(*smr.Heartbeat).Round != 2000 {
		t.Fatalf("%d queued, closed %v", len(queued), closed)
	}
	for range maxQueued + 1 {
		l.send(&smr.SlaveStart{})
	}
	if !l.isClosed() || conn.closed != 1 {
		t.Fatal("the queue grows without end")
	}
}

// That the commit LSN has moved goes with the next frames, in their message, unless somebody waits for it. What could go wrong: it is never said, or
// something else is left out with it.
func TestCommitGoesWithTheFrames(t *testing.T) {
	frame := testFrame(0, 10)
	end := smr.LSN(len(frame))
	first := &smr.Heartbeat{Epoch: 1, Round: 1}
	for name, c := range map[string]struct {
		queued  []any
		label   smr.LSN // the commit LSN that the stream knows
		asked   bool
		nothing bool // there are no further frames
		want    string
	}{
		"the commit LSN and frames":          {[]any{&smr.Heartbeat{Epoch: 1, Round: 1, Commit: 5}}, 5, false, false, "Append"},
		"the commit LSN alone":               {[]any{&smr.Heartbeat{Epoch: 1, Round: 1, Commit: 5}}, 5, false, true, "Heartbeat"},
		"somebody waits":                     {[]any{&smr.Heartbeat{Epoch: 1, Round: 1, Commit: 5}}, 5, true, false, "Heartbeat Append"},
		"a round":                            {[]any{&smr.Heartbeat{Epoch: 1, Round: 2, Commit: 5}}, 5, false, false, "Heartbeat Append"},
		"a round, then the commit LSN":       {[]any{&smr.Heartbeat{Epoch: 1, Round: 2}, &smr.Heartbeat{Epoch: 1, Round: 2, Commit: 5}}, 5, false, false, "Heartbeat Append"},
		"the frames are of an older label":   {[]any{&smr.Heartbeat{Epoch: 1, Round: 1, Commit: 6}}, 5, false, false, "Heartbeat Append"},
		"the peer is sent away":              {[]any{&smr.Reject{Code: smr.RejectBusy, Reason: "enough"}}, 5, false, false, "Reject"},
		"something else, and the commit LSN": {[]any{&smr.SlaveStart{}, &smr.Heartbeat{Epoch: 1, Round: 1, Commit: 5}}, 5, false, false, "SlaveStart Heartbeat Append"},
		"frames alone":                       {nil, 5, false, false, "Append"},
	} {
		s := newStream(&disk{}, 0)
		if !c.nothing {
			s.publish([]replica.DiskOp{{Ticket: 1, Append: frame}}, 1, c.label)
		} else {
			s.publish(nil, 1, c.label)
		}
		l := newLink(1, &closeOnly{}, "n2", s, nil)
		l.send(first)
		l.takeQueued(nil)
		l.feed(0)
		for _, message := range c.queued {
			l.send(message)
		}
		l.asked.Store(c.asked)
		bytes, _, err := l.feeder.compose(nil, false)
		if err != nil {
			t.Fatal(err)
		}
		var got []string
		r := wire.NewReader(strings.NewReader(string(bytes)), wire.StreamLimit)
		for {
			message, err := r.Next()
			if err != nil {
				break
			}
			if in, ok := message.(*smr.Append); ok && (in.Commit != c.label || in.From != 0) {
				t.Errorf("%s: %+v", name, in)
			}
			got = append(got, strings.TrimPrefix(fmt.Sprintf("%T", message), "*smr."))
		}
		if strings.Join(got, " ") != c.want {
			t.Errorf("%s: %v is sent, not %s", name, got, c.want)
		}
		if again, _, err := l.feeder.compose(nil, false); c.want != "Reject" && (err != nil || len(again) > 0) {
			t.Errorf("%s: then %d bytes more, %v", name, len(again), err)
		}
		if !c.nothing && c.want != "Reject" && smr.LSN(l.feeder.sent.Load()) != end {
			t.Errorf("%s: sent up to %d", name, l.feeder.sent.Load())
		}
	}
}

// closeOnly is a connection that can only be closed.
type closeOnly struct {
	net.Conn
	closed int
}

func (c *closeOnly) Close() error { c.closed++; return nil }
