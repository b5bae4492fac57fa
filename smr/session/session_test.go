package session

import (
	"bytes"
	"flag"
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"testing"

	"lockstep/smr"
)

var update = flag.Bool("update", false, "write the transcripts' answers anew")

// The transcripts in testdata are scenarios to read: a line of input, then what the session does. They show what the
// property test cannot: what is sent when, and when callers are answered. A change shows as a difference in the file.
func TestTranscripts(t *testing.T) {
	paths, err := filepath.Glob("testdata/*.txt")
	if err != nil || len(paths) == 0 {
		t.Fatalf("no transcripts: %v", err)
	}
	for _, path := range paths {
		t.Run(strings.TrimSuffix(filepath.Base(path), ".txt"), func(t *testing.T) {
			want, err := os.ReadFile(path)
			if err != nil {
				t.Fatal(err)
			}
			got := play(t, string(want))
			if *update {
				if err := os.WriteFile(path, []byte(got), 0o644); err != nil {
					t.Fatal(err)
				}
				return
			}
			if got != string(want) {
				t.Errorf("%s differs, this is what happens:\n%s", path, got)
			}
		})
	}
}

// play executes the commands of a transcript (lines that begin with ">") and returns it with fresh answers.
func play(t *testing.T, transcript string) string {
	options := Options{ID: 7, MaxPending: 5, MaxPendingBytes: smr.RequestHeaderSize + smr.MaxPayload, MaxReads: 3, BatchBytes: 1 << 20,
		RefuseAfterTicks: 500, TimeoutTicks: 1000, AskTicks: 50, DeadTicks: 150}
	p := &player{t: t, session: New(options)}
	for line := range strings.Lines(transcript) {
		line = strings.TrimRight(line, "\n")
		switch {
		case line == "" || strings.HasPrefix(line, "#"):
			fmt.Fprintln(&p.out, line)
		case strings.HasPrefix(line, ">"):
			fmt.Fprintln(&p.out, line)
			p.command(strings.Fields(line[1:]))
		}
	}
	return p.out.String()
}

type player struct {
	t       *testing.T
	session *Session
	effects Effects
	out     strings.Builder
	tick    int
}

func (p *player) command(words []string) {
	number := func(i int) uint64 {
		n, err := strconv.ParseUint(words[i], 10, 64)
		if err != nil {
			p.t.Fatalf("%v: %v", words, err)
		}
		return n
	}
	switch words[0] {
	case "submit":
		for _, word := range words[1:] {
			ticket, err := strconv.Atoi(word)
			if err != nil {
				p.t.Fatal(err)
			}
			p.session.Step(&Submit{Ticket: Ticket(ticket), Slot: 1, Payload: []byte(word)}, &p.effects)
		}
	case "read":
		p.session.Step(&Read{Ticket: Ticket(number(1))}, &p.effects)
	case "count":
		p.session.Step(&Count{Ticket: Ticket(number(1)), LSN: smr.LSN(number(2))}, &p.effects)
	case "connected":
		p.session.Step(&Connected{Conn: ConnID(number(1))}, &p.effects)
	case "disconnected":
		p.session.Step(&Disconnected{Conn: ConnID(number(1))}, &p.effects)
	case "busy":
		p.session.Step(&Busy{Conn: ConnID(number(1))}, &p.effects)
	case "ready":
		p.session.Step(&ReadReady{Conn: ConnID(number(1)), Message: smr.ReadReady{ID: number(2), LSN: smr.LSN(number(3))}}, &p.effects)
	case "counted":
		p.session.Step(&CopiesCounted{Conn: ConnID(number(1)), Message: smr.CopiesCounted{ID: number(2), Copies: int(number(3))}}, &p.effects)
	case "executed":
		p.session.Step(&Executed{Through: number(1)}, &p.effects)
	case "writable":
		p.session.Step(&Writable{Writable: words[1] == "yes"}, &p.effects)
	case "ticks":
		for range number(1) {
			p.tick++
			if len(words) > 2 && words[2] == "busy" {
				p.session.Step(&Busy{Conn: p.session.conn}, &p.effects)
			}
			p.session.Step(&Tick{}, &p.effects)
			p.flush(fmt.Sprintf("at %d: ", p.tick))
		}
	case "stop":
		p.session.Step(&Stop{}, &p.effects)
	default:
		p.t.Fatalf("unknown command %v", words)
	}
	p.flush("")
}

// flush prints the effects.
func (p *player) flush(prefix string) {
	p.session.Flush(&p.effects)
	e := &p.effects
	say := func(format string, arguments ...any) { fmt.Fprintf(&p.out, prefix+format+"\n", arguments...) }
	for _, n := range e.Numbered {
		say("ticket %d is sequence %d", n.Ticket, n.Sequence)
	}
	for _, send := range e.Send {
		switch m := send.Message.(type) {
		case *smr.Propose:
			say("send to %d: propose%s", send.Conn, describe(p.t, m))
		case *smr.ReadIndex:
			say("send to %d: read index %d", send.Conn, m.ID)
		case *smr.CountCopies:
			say("send to %d: count copies %d of %d", send.Conn, m.ID, m.LSN)
		}
	}
	for _, conn := range e.Drop {
		say("drop connection %d", conn)
	}
	for _, done := range e.Done {
		say("request %d: %s", done.Ticket, done.Outcome)
	}
	for _, done := range e.Reads {
		say("reads up to %d: %s at %d", done.Through, done.Outcome, done.LSN)
	}
	for _, done := range e.ReadsRefused {
		say("read %d: %s", done.Ticket, done.Outcome)
	}
	for _, done := range e.Counts {
		say("count %d: %s, %d copies", done.Ticket, done.Outcome, done.Copies)
	}
	e.Reset()
}

func describe(t *testing.T, m *smr.Propose) string {
	var text strings.Builder
	rest := m.Requests
	for range m.Count {
		var request smr.Request
		var err error
		if request, rest, err = smr.CutRequest(rest); err != nil {
			t.Fatal(err)
		}
		fmt.Fprintf(&text, " %d=%s", request.Sequence, request.Payload)
	}
	return text.String()
}

// The memory of requests is cut into chunks; a batch must end with its chunk, and large requests go alone. It would be
// seen as a batch of wrong bytes, or of a size beyond the limit.
func TestBatchesOfAllSizesCarryTheRightBytes(t *testing.T) {
	const batch = 1 << 20
	s := New(Options{ID: 7, MaxPending: 1 << 20, MaxPendingBytes: 1 << 30, MaxReads: 1, BatchBytes: batch,
		RefuseAfterTicks: 1, TimeoutTicks: 1, AskTicks: 1, DeadTicks: 2})
	var effects Effects
	var want [][]byte
	for i := range 3000 {
		size := []int{0, 1, 100, 1000, aloneSize - smr.RequestHeaderSize, aloneSize, 3 * aloneSize, 2 * batch}[(i*i+i/7)%8]
		if size > 1000 && i%10 != 0 {
			size = i % 300
		}
		payload := bytes.Repeat([]byte{byte(i)}, size)
		want = append(want, payload)
		s.Step(&Submit{Ticket: Ticket(i + 1), Payload: payload}, &effects)
	}
	s.Step(&Connected{Conn: 1}, &effects)
	s.Flush(&effects)
	next := 0
	for _, send := range effects.Send {
		m := send.Message.(*smr.Propose)
		if m.Count > 1 && len(m.Requests) > batch {
			t.Fatalf("batch of %d bytes", len(m.Requests))
		}
		rest := m.Requests
		for range m.Count {
			request, behind, err := smr.CutRequest(rest)
			if err != nil || request.Sequence != uint64(next+1) || !bytes.Equal(request.Payload, want[next]) {
				t.Fatalf("request %d: sequence %d, %d bytes, %v", next, request.Sequence, len(request.Payload), err)
			}
			rest = behind
			next++
		}
		if len(rest) > 0 {
			t.Fatalf("%d bytes behind the last request of a batch", len(rest))
		}
	}
	if next != len(want) || len(effects.Send) > 700 {
		t.Fatalf("%d requests of %d in %d batches", next, len(want), len(effects.Send))
	}
}

func TestTooLargeAndTooManyAreTurnedAway(t *testing.T) {
	options := testOptions()
	s := New(options)
	var effects Effects
	s.Step(&Submit{Ticket: 1, Payload: make([]byte, smr.MaxPayload+1)}, &effects)
	s.Step(&Submit{Ticket: 2, Payload: make([]byte, smr.MaxPayload)}, &effects)
	s.Step(&Submit{Ticket: 3}, &effects)
	want := []Done{{Ticket: 1, Outcome: TooLarge}, {Ticket: 3, Outcome: Overloaded}}
	if fmt.Sprint(effects.Done) != fmt.Sprint(want) {
		t.Errorf("%v, want %v", effects.Done, want)
	}
}

func TestOptionsAreChecked(t *testing.T) {
	if err := testOptions().Validate(); err != nil {
		t.Errorf("good options: %v", err)
	}
	err := Options{}.Validate()
	if err == nil || len(strings.Split(err.Error(), "\n")) != 8 {
		t.Errorf("empty options: %v", err)
	}
}

func BenchmarkSubmitSendExecute(b *testing.B) {
	s := New(Options{ID: 7, MaxPending: 1 << 20, MaxPendingBytes: 1 << 30, MaxReads: 1, BatchBytes: 1 << 20,
		RefuseAfterTicks: 500, TimeoutTicks: 1000, AskTicks: 50, DeadTicks: 150})
	var effects Effects
	s.Step(&Connected{Conn: 1}, &effects)
	submit := &Submit{Payload: make([]byte, 50)}
	executed := &Executed{}
	b.ReportAllocs()
	for i := 0; b.Loop(); i++ {
		submit.Ticket++
		s.Step(submit, &effects)
		if i%100 == 99 {
			s.Flush(&effects)
			effects.Reset()
			executed.Through += 100
			s.Step(executed, &effects)
		}
	}
}

// A sign of life (an answer with the ID of no question) may be heard before a count was asked for on the new
// connection; it is no answer to it.
func TestSignOfLifeAnswersNoCount(t *testing.T) {
	s := New(Options{ID: 7, MaxPending: 5, MaxPendingBytes: smr.RequestHeaderSize + smr.MaxPayload, MaxReads: 3, BatchBytes: 1 << 20,
		RefuseAfterTicks: 500, TimeoutTicks: 1000, AskTicks: 50, DeadTicks: 150})
	var effects Effects
	s.Step(&Count{Ticket: 1, LSN: 100}, &effects)
	s.Step(&Connected{Conn: 1}, &effects)
	s.Step(&CopiesCounted{Conn: 1}, &effects)
	if len(effects.Counts) != 0 {
		t.Fatalf("answered without having been asked: %+v", effects.Counts)
	}
	s.Flush(&effects)
	s.Step(&CopiesCounted{Conn: 1, Message: smr.CopiesCounted{ID: s.lastID, Copies: 2}}, &effects)
	if len(effects.Counts) != 1 || effects.Counts[0].Copies != 2 {
		t.Fatalf("%+v", effects.Counts)
	}
}
