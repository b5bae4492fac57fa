package wire

import (
	"bytes"
	"encoding/binary"
	"encoding/hex"
	"errors"
	"flag"
	"fmt"
	"hash/crc32"
	"io"
	"os"
	"reflect"
	"strings"
	"testing"
	"testing/iotest"

	"pgregory.net/rapid"

	"lockstep/internal/steady"

	"lockstep/smr"
)

var _ = steady.Draws()

var update = flag.Bool("update", false, "write testdata/golden.txt anew")

var us = smr.Handshake{Cluster: "c0ffee", Group: "g1", Node: "n1"}

// samples holds one message of each type, every field with a value of its own.
func samples() []any {
	requests := smr.AppendRequest(nil, smr.Request{Session: 7, Sequence: 1, Slot: 866, Flags: 3, Payload: []byte("SET a 1")})
	requests = smr.AppendRequest(requests, smr.Request{Session: 7, Sequence: 2, Slot: smr.NoSlot})
	frames := smr.AppendFrame(nil, smr.Frame{LSN: 4096, Epoch: 9, Commit: 4000, Stamp: 1700000000000, Kind: smr.KindRequests, Count: 2, Body: requests})
	return []any{
		&smr.Reject{Code: smr.RejectNotMaster, Epoch: 9, Reason: "n2 leads"},
		&smr.SlaveHello{Handshake: us, Epoch: 9, Incarnation: 0x1122334455667788},
		&smr.MasterHello{Handshake: us, Epoch: 9, Start: 64, End: 4242, History: smr.History{{Epoch: 1, From: 0}, {Epoch: 9, From: 4000}},
			Config: smr.Config{Epoch: 9, Reign: 8, Master: "n2", Copies: 1, Members: []smr.Member{{Node: "n2", Incarnation: 6}}}},
		&smr.SlaveStart{Epoch: 9, From: 4001},
		&smr.Append{Epoch: 9, Commit: 5000, From: 4096, Frames: frames},
		&smr.Heartbeat{Epoch: 9, Commit: 5000, Round: 77, Writable: true, Lease: 20, LeaseOver: true},
		&smr.Ack{Epoch: 9, Durable: 4999, Round: 77, Leased: 76},
		&smr.ClientHello{Handshake: us, Session: 7},
		&smr.ClientWelcome{Handshake: us, Epoch: 9},
		&smr.Propose{Count: 2, Requests: requests},
		&smr.ReadIndex{ID: 12},
		&smr.ReadReady{ID: 12, LSN: 5000},
		&smr.CountCopies{ID: 13, LSN: 5001},
		&smr.CopiesCounted{ID: 13, Copies: 2},
		&smr.LocalHello{Handshake: us, Session: 7, Pid: 4711, KVAddr: "127.0.0.1:6379", AdminAddr: "127.0.0.1:6380", Applied: 4096, Checkpoint: 1024},
		&smr.LocalWelcome{Handshake: us, Incarnation: 5, LogDir: "/var/lib/lockstep/n1/log", Page: "/var/lib/lockstep/n1/page"},
		&smr.Status{Role: smr.RoleSlave, Epoch: 9, Master: "n2", MasterAddr: "127.0.0.1:7100", Start: 64, Safe: 4096, Commit: 5000, Writable: true, NeedImage: 70},
		&smr.Progress{Applied: 4096, Checkpoint: 1024},
		&smr.ImageSources{Sources: []smr.ImageSource{{Node: "n2", Addr: "127.0.0.1:6380"}, {Node: "n3", Addr: "[::1]:6380"}}},
		&smr.LocalBase{Base: []byte("lstpbase and so on")},
		&smr.Transfer{Done: 5, Total: 1 << 40, PerSecond: 7, From: "127.0.0.1:6380"},
	}
}

// A change of a message's bytes would make nodes of two builds misunderstand each other without a change of Version.
// The golden file holds the bytes of one message of each type; the drawing in doc.go is checked against it by eye.
func TestBytesOfEveryMessageAreGolden(t *testing.T) {
	var got strings.Builder
	for _, message := range samples() {
		fmt.Fprintf(&got, "%T %+v\n%s\n", message, reflect.ValueOf(message).Elem(), hex.Dump(AppendMessage(nil, message)))
	}
	const path = "testdata/golden.txt"
	if *update {
		if err := os.WriteFile(path, []byte(got.String()), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	want, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	if got.String() != string(want) {
		t.Fatalf("bytes differ from %s:\n%s", path, got.String())
	}
}

// The golden file would be of little use if a type were missing in samples.
func TestSamplesHoldEveryType(t *testing.T) {
	seen := map[byte]bool{}
	for _, message := range samples() {
		seen[AppendMessage(nil, message)[PrefixSize]] = true
	}
	for k := range 256 {
		d := decoder{}
		d.message(kind(k))
		known := !strings.Contains(fmt.Sprint(d.err), "unknown type")
		if known != seen[byte(k)] {
			t.Errorf("type %d: known to the decoder: %v, in samples: %v", k, known, seen[byte(k)])
		}
	}
}

func TestDecodeReturnsWhatWasAppended(t *testing.T) {
	for _, message := range samples() {
		encoded := AppendMessage([]byte("before"), message)[len("before"):]
		decoded, err := Decode(encoded)
		if err != nil || !reflect.DeepEqual(decoded, message) {
			t.Errorf("%+v decodes to %+v, %v", message, decoded, err)
		}
	}
}

// A damaged or cut message must never pass for another one: every bit flip and every prefix is refused.
func TestDamageIsRefused(t *testing.T) {
	for _, message := range samples() {
		encoded := AppendMessage(nil, message)
		for bit := range 8 * len(encoded) {
			damaged := bytes.Clone(encoded)
			damaged[bit/8] ^= 1 << (bit % 8)
			if decoded, err := Decode(damaged); !errors.Is(err, ErrBadMessage) {
				t.Fatalf("%T with bit %d flipped: %+v, %v", message, bit, decoded, err)
			}
		}
		for end := range encoded {
			if decoded, err := Decode(encoded[:end]); !errors.Is(err, ErrBadMessage) {
				t.Fatalf("%T cut at %d: %+v, %v", message, end, decoded, err)
			}
		}
		if _, err := Decode(append(bytes.Clone(encoded), 0)); !errors.Is(err, ErrBadMessage) {
			t.Fatalf("%T with a byte too many: %v", message, err)
		}
	}
}

// seal puts length and checksum before a body made by hand.
func seal(k kind, body []byte) []byte {
	b := append(make([]byte, PrefixSize), byte(k), 0)
	b = append(b, body...)
	binary.LittleEndian.PutUint32(b, uint32(len(b)-PrefixSize))
	binary.LittleEndian.PutUint32(b[4:], crc32.Checksum(b[PrefixSize:], castagnoli))
	return b
}

// reseal changes a sample's body and makes the checksum right again, so that the check behind it is what refuses.
func reseal(message any, change func(body []byte) []byte) []byte {
	encoded := AppendMessage(nil, message)
	return seal(kind(encoded[PrefixSize]), change(bytes.Clone(encoded[HeaderSize:])))
}

func TestImpossibleContentsAreRefused(t *testing.T) {
	set := func(offset int, bytes ...byte) func([]byte) []byte {
		return func(body []byte) []byte { copy(body[offset:], bytes); return body }
	}
	end := func(bytes ...byte) func([]byte) []byte {
		return func(body []byte) []byte { copy(body[len(body)-len(bytes):], bytes); return body }
	}
	cases := map[string][]byte{
		"unknown type":            seal(200, nil),
		"no magic":                reseal(&smr.ClientHello{Handshake: us, Session: 7}, set(0, 'X')),
		"bad node name":           reseal(&smr.ClientHello{Handshake: us, Session: 7}, func(b []byte) []byte { b[len(b)-9] = '/'; return b }),
		"no session":              reseal(&smr.ClientHello{Handshake: us, Session: 7}, end(0, 0, 0, 0, 0, 0, 0, 0)),
		"bool of 2":               reseal(&smr.Heartbeat{}, end(2)),
		"role of 9":               reseal(&smr.Status{}, set(0, 9)),
		"reject without code":     reseal(&smr.Reject{Code: 1}, set(0, 0)),
		"copies":                  reseal(&smr.CopiesCounted{Copies: 2}, end(255, 255, 255, 255)),
		"no requests":             reseal(&smr.Propose{}, set(0, 0)),
		"count beyond the batch":  reseal(samples()[9], set(0, 3)),
		"count below the batch":   reseal(samples()[9], set(0, 1)),
		"count of four billion":   reseal(samples()[9], set(0, 255, 255, 255, 255)),
		"history goes back":       reseal(&smr.MasterHello{Handshake: us, History: smr.History{{Epoch: 3, From: 0}, {Epoch: 4, From: 9}}}, func(b []byte) []byte { b[len(b)-16] = 3; return b }),
		"history count too large": reseal(&smr.MasterHello{Handshake: us}, end(255, 255, 255, 255)),
	}
	for name, encoded := range cases {
		if decoded, err := Decode(encoded); !errors.Is(err, ErrBadMessage) {
			t.Errorf("%s: %+v, %v", name, decoded, err)
		}
	}
}

// A peer of another version must be told so (RejectVersion) instead of being taken for a broken one.
func TestAnotherVersionIsToldApart(t *testing.T) {
	for _, message := range samples() {
		encoded := AppendMessage(nil, message)
		if [4]byte(encoded[HeaderSize:]) != magic {
			continue
		}
		newer := reseal(message, func(body []byte) []byte { body[4]++; return append(body[:6], "whatever comes later"...) })
		if _, err := Decode(newer); !errors.Is(err, ErrVersion) || errors.Is(err, ErrBadMessage) {
			t.Errorf("%T of version %d: %v", message, Version+1, err)
		}
	}
}

func TestSizeIsBounded(t *testing.T) {
	header := func(rest uint32) []byte { return binary.LittleEndian.AppendUint32(nil, rest) }
	for _, c := range []struct {
		rest  uint32
		limit int
		fine  bool
	}{
		{2, HelloLimit, true}, {1, HelloLimit, false}, {0, StreamLimit, false},
		{HelloLimit - PrefixSize, HelloLimit, true}, {HelloLimit - PrefixSize + 1, HelloLimit, false},
		{StreamLimit - PrefixSize, StreamLimit, true}, {StreamLimit - PrefixSize + 1, StreamLimit, false},
		{1<<32 - 1, StreamLimit, false},
	} {
		size, err := Size(append(header(c.rest), 0, 0, 0, 0), c.limit)
		if (err == nil) != c.fine || c.fine && size != int(c.rest)+PrefixSize {
			t.Errorf("rest %d, limit %d: %d, %v", c.rest, c.limit, size, err)
		}
	}
	if _, err := Size(make([]byte, PrefixSize-1), StreamLimit); err == nil {
		t.Error("a header of 7 bytes passes")
	}
}

func TestRejectReasonIsShortened(t *testing.T) {
	decoded, err := Decode(AppendMessage(nil, &smr.Reject{Code: 1, Reason: strings.Repeat("€", maxReason)}))
	if err != nil {
		t.Fatal(err)
	}
	reason := decoded.(*smr.Reject).Reason
	if len(reason) > maxReason || len(reason) < maxReason-3 || strings.Trim(reason, "€") != "" {
		t.Errorf("reason of %d bytes ends in %q", len(reason), reason[len(reason)-4:])
	}
}

func TestCheckHandshakeNamesWhatDiffers(t *testing.T) {
	for want, got := range map[string]smr.Handshake{
		"cluster": {Cluster: "other", Group: us.Group, Node: us.Node},
		"group":   {Cluster: us.Cluster, Group: "g2", Node: us.Node},
		"node":    {Cluster: us.Cluster, Group: us.Group, Node: "n2"},
	} {
		reject := CheckHandshake(got, us)
		if reject == nil || reject.Code != smr.RejectForeign || !strings.Contains(reject.Reason, want) {
			t.Errorf("other %s: %+v", want, reject)
		}
	}
	anyone := us
	anyone.Node = ""
	if reject := CheckHandshake(us, us); reject != nil {
		t.Errorf("same handshake: %+v", reject)
	}
	if reject := CheckHandshake(us, anyone); reject != nil {
		t.Errorf("any node: %+v", reject)
	}
}

// Messages must come out of the Reader the same however the bytes arrive, and must stay what they were when the
// Reader goes on.
func TestReaderGivesMessagesInOrder(t *testing.T) {
	big := smr.AppendRequest(nil, smr.Request{Session: 1, Sequence: 1, Slot: 1, Payload: bytes.Repeat([]byte("x"), 3<<20)})
	messages := append(samples(), &smr.Propose{Count: 1, Requests: big}, &smr.Progress{Applied: 1})
	var stream []byte
	for _, message := range messages {
		stream = AppendMessage(stream, message)
	}
	for name, source := range map[string]io.Reader{
		"at once":  bytes.NewReader(stream),
		"halves":   iotest.HalfReader(bytes.NewReader(stream)),
		"data err": iotest.DataErrReader(bytes.NewReader(stream)),
	} {
		r := NewReader(source, StreamLimit)
		var got []any
		for {
			message, err := r.Next()
			if err == io.EOF {
				break
			}
			if err != nil {
				t.Fatalf("%s: after %d messages: %v", name, len(got), err)
			}
			got = append(got, message)
		}
		if !reflect.DeepEqual(got, messages) {
			t.Errorf("%s: messages differ", name)
		}
	}
	r := NewReader(iotest.OneByteReader(bytes.NewReader(stream[:600])), StreamLimit)
	var err error
	for err == nil {
		_, err = r.Next()
	}
	if err != io.ErrUnexpectedEOF {
		t.Errorf("a stream that ends inside a message: %v", err)
	}
}

// A length alone must not make the Reader take memory: the peer claims the largest message and sends nothing more.
func TestReaderTakesMemoryAsBytesArrive(t *testing.T) {
	header := binary.LittleEndian.AppendUint32(nil, StreamLimit-PrefixSize)
	header = append(header, 0, 0, 0, 0, byte(kindAppend), 0)
	allocated := testing.Benchmark(func(b *testing.B) {
		b.ReportAllocs()
		for b.Loop() {
			if _, err := NewReader(bytes.NewReader(header), StreamLimit).Next(); err != io.ErrUnexpectedEOF {
				b.Fatal(err)
			}
		}
	}).AllocedBytesPerOp()
	if allocated > 2*(firstTake+readBuffer) {
		t.Errorf("%d bytes taken for a length of %d", allocated, StreamLimit)
	}
}

func TestReaderKeepsTheLimit(t *testing.T) {
	hello := AppendMessage(nil, &smr.MasterHello{Handshake: us, History: longHistory(smr.MaxHistory)})
	if _, err := NewReader(bytes.NewReader(hello), HelloLimit).Next(); !errors.Is(err, ErrBadMessage) {
		t.Errorf("long history before the handshake: %v", err)
	}
	r := NewReader(bytes.NewReader(hello), HelloLimit)
	r.SetLimit(HistoryLimit)
	if message, err := Expect[smr.MasterHello](r); err != nil || len(message.History) != smr.MaxHistory {
		t.Errorf("longest history: %v", err)
	}
}

func longHistory(n int) smr.History {
	history := make(smr.History, n)
	for i := range history {
		history[i] = smr.Span{Epoch: smr.Epoch(i + 1), From: smr.LSN(i * 100)}
	}
	return history
}

func TestBufferedTellsWhetherNextWouldRead(t *testing.T) {
	one := AppendMessage(nil, &smr.Progress{Applied: 1})
	r := NewReader(bytes.NewReader(append(append(bytes.Clone(one), one...), one[:20]...)), StreamLimit)
	for i, want := range []bool{false, true, false} {
		if r.Buffered() != want {
			t.Fatalf("before message %d: buffered %v", i, !want)
		}
		if _, err := r.Next(); (err == nil) != (i < 2) {
			t.Fatalf("message %d: %v", i, err)
		}
	}
}

func TestExpectReturnsTheReject(t *testing.T) {
	stream := AppendMessage(nil, &smr.Reject{Code: smr.RejectNotMaster, Epoch: 4, Reason: "no"})
	stream = AppendMessage(stream, &smr.Ack{})
	r := NewReader(bytes.NewReader(stream), HelloLimit)
	var rejected *RejectedError
	if _, err := Expect[smr.ClientWelcome](r); !errors.As(err, &rejected) || rejected.Code != smr.RejectNotMaster || rejected.Epoch != 4 {
		t.Errorf("reject: %v", err)
	}
	if _, err := Expect[smr.ClientWelcome](r); !errors.Is(err, ErrBadMessage) {
		t.Errorf("another message: %v", err)
	}
}

// Property: any message of possible contents survives the way through bytes.
func TestAnyStatusAndHistorySurvive(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		node := rapid.StringMatching(`[a-z0-9][a-z0-9.-]{0,62}`)
		h := smr.Handshake{Cluster: rapid.StringN(0, 20, maxName).Draw(t, "cluster"), Group: rapid.StringN(0, 20, maxName).Draw(t, "group"), Node: smr.NodeID(node.Draw(t, "node"))}
		number := rapid.Uint64()
		status := &smr.Status{Role: smr.Role(rapid.IntRange(0, int(smr.RoleLearner)).Draw(t, "role")), Epoch: smr.Epoch(number.Draw(t, "epoch")),
			Master: smr.NodeID(node.Draw(t, "master")), MasterAddr: rapid.StringN(0, 50, maxName).Draw(t, "address"),
			Safe: smr.LSN(number.Draw(t, "safe")), Writable: rapid.Bool().Draw(t, "writable")}
		hello := &smr.MasterHello{Handshake: h, Epoch: smr.Epoch(number.Draw(t, "epoch")), End: smr.LSN(number.Draw(t, "end"))}
		if n := rapid.IntRange(0, 100).Draw(t, "spans"); n > 0 {
			hello.History = longHistory(n)
		}
		for _, message := range []any{status, hello} {
			if decoded, err := Decode(AppendMessage(nil, message)); err != nil || !reflect.DeepEqual(decoded, message) {
				t.Fatalf("%+v becomes %+v, %v", message, decoded, err)
			}
		}
	})
}

// FuzzDecode: bytes from anyone never panic, and what is accepted is canonical. The checksum is repaired so that the
// fuzzer gets past it.
func FuzzDecode(f *testing.F) {
	for _, message := range samples() {
		f.Add(AppendMessage(nil, message)[PrefixSize:])
	}
	f.Fuzz(func(t *testing.T, rest []byte) {
		if len(rest) > 1<<20 {
			return
		}
		encoded := append(make([]byte, PrefixSize), rest...)
		binary.LittleEndian.PutUint32(encoded, uint32(len(rest)))
		binary.LittleEndian.PutUint32(encoded[4:], crc32.Checksum(rest, castagnoli))
		decoded, err := Decode(encoded)
		if err != nil {
			if !errors.Is(err, ErrBadMessage) && !errors.Is(err, ErrVersion) {
				t.Fatalf("error of another kind: %v", err)
			}
			return
		}
		if again := AppendMessage(nil, decoded); !bytes.Equal(again, encoded) {
			t.Fatalf("%+v was read from\n%x but is written as\n%x", decoded, encoded, again)
		}
	})
}

// FuzzReader: a stream from anyone never panics and ends with one of the documented errors.
func FuzzReader(f *testing.F) {
	var stream []byte
	for _, message := range samples() {
		stream = AppendMessage(stream, message)
	}
	f.Add(stream)
	f.Add(stream[:100])
	f.Fuzz(func(t *testing.T, stream []byte) {
		r := NewReader(bytes.NewReader(stream), HelloLimit)
		for {
			r.Buffered()
			_, err := r.Next()
			if err == nil {
				continue
			}
			if err != io.EOF && err != io.ErrUnexpectedEOF && !errors.Is(err, ErrBadMessage) && !errors.Is(err, ErrVersion) {
				t.Fatalf("error of another kind: %v", err)
			}
			return
		}
	})
}

func BenchmarkReaderPropose(b *testing.B) {
	var requests []byte
	for i := range 100 {
		requests = smr.AppendRequest(requests, smr.Request{Session: 7, Sequence: uint64(i + 1), Slot: 1, Payload: make([]byte, 40)})
	}
	encoded := AppendMessage(nil, &smr.Propose{Count: 100, Requests: requests})
	stream := bytes.Repeat(encoded, 1000)
	b.SetBytes(int64(len(stream)))
	for b.Loop() {
		r := NewReader(bytes.NewReader(stream), StreamLimit)
		for range 1000 {
			if _, err := r.Next(); err != nil {
				b.Fatal(err)
			}
		}
	}
}

// Levels travel in the flags of what introduces a process, and of Status. What could go wrong: the first level changes bytes, so that a
// process of before there were levels refuses it; a level is lost or taken for another; or flags of other messages mean something.
func TestLevelsTravelInTheFlags(t *testing.T) {
	withLevel := func(message any, level int) any {
		value := reflect.New(reflect.TypeOf(message).Elem())
		value.Elem().Set(reflect.ValueOf(message).Elem())
		value.Elem().FieldByName("Level").SetInt(int64(level))
		return value.Interface()
	}
	carriers := 0
	for _, message := range samples() {
		encoded := AppendMessage(nil, message)
		if encoded[PrefixSize+1] != 0 {
			t.Errorf("%T of no level has flags %#x", message, encoded[PrefixSize+1])
		}
		tells := reflect.ValueOf(message).Elem().FieldByName("Level").IsValid()
		if !tells {
			encoded[PrefixSize+1] = 1
			binary.LittleEndian.PutUint32(encoded[4:], crc32.Checksum(encoded[PrefixSize:], castagnoli))
			if decoded, err := Decode(encoded); !errors.Is(err, ErrBadMessage) {
				t.Errorf("flags of %T: %+v, %v", message, decoded, err)
			}
			continue
		}
		carriers++
		if first := AppendMessage(nil, withLevel(message, 1)); !bytes.Equal(first, encoded) {
			t.Errorf("%T of level 1 differs from one of none", message)
		}
		for _, level := range []int{2, 3, smr.MaxLevel} {
			told := withLevel(message, level)
			decoded, err := Decode(AppendMessage(nil, told))
			if err != nil || !reflect.DeepEqual(decoded, told) {
				t.Errorf("%T of level %d: %+v, %v", message, level, decoded, err)
			}
		}
		encoded[PrefixSize+1] = smr.MaxLevel // one above the last
		binary.LittleEndian.PutUint32(encoded[4:], crc32.Checksum(encoded[PrefixSize:], castagnoli))
		if decoded, err := Decode(encoded); !errors.Is(err, ErrBadMessage) {
			t.Errorf("%T of level 256: %+v, %v", message, decoded, err)
		}
	}
	if carriers != 7 {
		t.Errorf("%d messages tell a level, not 7", carriers)
	}
}
