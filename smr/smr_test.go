package smr

import (
	"bytes"
	"encoding/hex"
	"errors"
	"strings"
	"testing"

	"pgregory.net/rapid"

	"lockstep/internal/steady"
)

var _ = steady.Draws()

// TestGoldenFrame: the drawing in doc.go must not lie, and logs written today must be read for ever.
func TestGoldenFrame(t *testing.T) {
	body := AppendRequest(nil, Request{Session: 0x1122334455667788, Sequence: 7, Slot: 12182, Flags: 1, Payload: []byte("abc")})
	got := AppendFrame(nil, Frame{LSN: 4096, Epoch: 3, Commit: 4000, Stamp: 1700000000123, Kind: KindRequests, Count: 1, Body: body})
	want := strings.Join(strings.Fields(`
		cf6dfb4a 4b000000 0010000000000000 0300000000000000 a00f000000000000 7b68e5cf8b010000 01 000000 01000000
		03000000 962f 01 00 8877665544332211 0700000000000000 616263`), "")
	if hex.EncodeToString(got) != want {
		t.Fatalf("frame is\n%x, want\n%s", got, want)
	}
	start := AppendConfig(nil, Config{Epoch: 9, Reign: 8, Master: "n1", Copies: 2, Members: []Member{{"n1", 5}, {"n2", 6}}})
	wantStart := strings.Join(strings.Fields(`0900000000000000 0800000000000000 0200 0200 02 6e31
		02 6e31 0500000000000000 02 6e32 0600000000000000`), "")
	if hex.EncodeToString(start) != wantStart {
		t.Fatalf("config is\n%x, want\n%s", start, wantStart)
	}
	f, err := DecodeFrame(got, 4096)
	if err != nil || f.End() != 4096+LSN(len(got)) || f.Count != 1 || !bytes.Equal(f.Body, body) {
		t.Fatalf("decoded %+v, %v", f, err)
	}
}

// TestEveryFlippedBitIsSeen: a frame with any one bit changed, or at another LSN, must not decode.
func TestEveryFlippedBitIsSeen(t *testing.T) {
	frame := AppendFrame(nil, Frame{LSN: 64, Epoch: 1, Kind: KindRequests, Count: 1,
		Body: AppendRequest(nil, Request{Session: 1, Sequence: 1, Slot: NoSlot, Payload: []byte("payload")})})
	for bit := range len(frame) * 8 {
		bad := bytes.Clone(frame)
		bad[bit/8] ^= 1 << (bit % 8)
		if _, err := DecodeFrame(bad, 64); !errors.Is(err, ErrBadFrame) {
			t.Fatalf("bit %d flipped: %v", bit, err)
		}
	}
	for end := range frame {
		if _, err := DecodeFrame(frame[:end], 64); !errors.Is(err, ErrBadFrame) {
			t.Fatalf("cut at %d: %v", end, err)
		}
	}
	if _, err := DecodeFrame(frame, 128); !errors.Is(err, ErrBadFrame) {
		t.Fatalf("at another LSN: %v", err)
	}
}

// TestCommonEndAgainstBytes: two logs grown from one another by epochs and cuts; the computed common end must be the
// length of the real common prefix, as long as one epoch has one writer.
func TestCommonEndAgainstBytes(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		type replica struct {
			bytes   []byte
			history History
		}
		logs := []replica{{}, {}, {}}
		for epoch := Epoch(1); epoch <= 6; epoch++ {
			master := rapid.IntRange(0, 2).Draw(t, "master")
			m := &logs[master]
			m.history = append(m.history.Clone(), Span{epoch, LSN(len(m.bytes))})
			for range rapid.IntRange(1, 5).Draw(t, "bytes") {
				m.bytes = append(bytes.Clone(m.bytes), byte(epoch)<<4|byte(master))
			}
			follower := &logs[rapid.IntRange(0, 2).Draw(t, "follower")]
			end := rapid.IntRange(int(m.history[len(m.history)-1].From), len(m.bytes)).Draw(t, "end")
			if follower != m {
				follower.bytes = bytes.Clone(m.bytes[:end])
				follower.history = m.history.RewoundTo(LSN(end)).Clone()
			}
		}
		for _, a := range logs {
			for _, b := range logs {
				want := 0
				for want < len(a.bytes) && want < len(b.bytes) && a.bytes[want] == b.bytes[want] {
					want++
				}
				if got := CommonEnd(a.history, LSN(len(a.bytes)), b.history, LSN(len(b.bytes))); int(got) != want {
					t.Fatalf("common end of %v (%d) and %v (%d) is %d, want %d", a.history, len(a.bytes), b.history, len(b.bytes), got, want)
				}
			}
		}
	})
}

// TestSessionTableExecutesOnceInOrder holds S13: whatever is repeated or skipped, each sequence executes once, in order.
func TestSessionTableExecutesOnceInOrder(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		var table SessionTable
		last := map[SessionID]uint64{}
		for lsn := LSN(1); lsn < 200; lsn++ {
			s := SessionID(rapid.IntRange(1, 3).Draw(t, "session"))
			seq := uint64(rapid.IntRange(1, 12).Draw(t, "sequence"))
			got := table.Admit(s, seq, lsn)
			want := OutOfOrder
			if seq <= last[s] {
				want = Duplicate
			} else if seq == last[s]+1 {
				want = Execute
				last[s] = seq
			}
			if got != want {
				t.Fatalf("admit %d/%d after %d: %d, want %d", s, seq, last[s], got, want)
			}
		}
		again, rest, err := DecodeSessionTable(table.Append(nil))
		if err != nil || len(rest) != 0 || !bytes.Equal(again.Append(nil), table.Append(nil)) {
			t.Fatalf("table does not survive: %v", err)
		}
	})
}

func TestSessionTableIsBounded(t *testing.T) {
	var table SessionTable
	for i := range MaxSessions + 100 {
		table.Admit(SessionID(i+1), 1, LSN(i))
	}
	if table.Len() != MaxSessions || table.Last(100) != 0 || table.Last(101) != 1 {
		t.Fatalf("%d sessions, 100: %d, 101: %d", table.Len(), table.Last(100), table.Last(101))
	}
	if table.Admit(50, 2, 1<<30) != OutOfOrder {
		t.Fatal("a forgotten session went on in the middle")
	}
}

func TestPositionsCompareEpochFirst(t *testing.T) {
	long, recent := Position{1, 1000}, Position{2, 10}
	if long.Compare(recent) != -1 || recent.Compare(long) != 1 || long.Compare(long) != 0 {
		t.Fatal("a longer log of an older epoch must not win")
	}
	h := History{{1, 0}, {2, 100}}
	if h.PositionOf(100) != (Position{1, 100}) || h.PositionOf(101) != (Position{2, 101}) || h.PositionOf(0) != (Position{}) {
		t.Fatal("position of a History")
	}
}

func FuzzDecodeFrame(f *testing.F) {
	f.Add(AppendFrame(nil, Frame{Epoch: 1, Kind: KindTick}))
	f.Add(AppendFrame(nil, Frame{Epoch: 2, Kind: KindEpochStart, Body: AppendConfig(nil,
		Config{Epoch: 2, Reign: 2, Master: "n1", Copies: 1, Members: []Member{{"n1", 5}}})}))
	f.Add(AppendFrame(nil, Frame{Epoch: 1, Kind: KindRequests, Count: 1, Body: AppendRequest(nil, Request{Session: 1, Sequence: 1})}))
	f.Fuzz(func(t *testing.T, b []byte) {
		if len(b) >= HeaderSize {
			b = bytes.Clone(b)
			SealFrame(b, Frame{Epoch: 1, Kind: Kind(b[40]), Count: int(b[44])}) // past the checksum
		}
		frame, err := DecodeFrame(b, 0)
		if err != nil {
			return
		}
		if again := AppendFrame(nil, frame); !bytes.Equal(again, b[:len(again)]) {
			t.Fatalf("%x decodes and encodes to %x", b, again)
		}
	})
}
