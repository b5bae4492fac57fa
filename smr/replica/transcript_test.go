package replica

import (
	"flag"
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"testing"

	"lockstep/smr"
)

var rewrite = flag.Bool("rewrite", false, "write the transcripts anew; review the difference line by line")

// TestTranscripts runs the scenarios of testdata: each line that begins with "> " is one input; the lines below it are
// the effects. The scenarios are the traps of MODEL.md (F1 to F12) and the ordinary walks.
func TestTranscripts(t *testing.T) {
	files, err := filepath.Glob("testdata/*.txt")
	if err != nil || len(files) == 0 {
		t.Fatalf("no transcripts: %v", err)
	}
	for _, file := range files {
		t.Run(strings.TrimSuffix(filepath.Base(file), ".txt"), func(t *testing.T) {
			want, err := os.ReadFile(file)
			if err != nil {
				t.Fatal(err)
			}
			got := replay(t, string(want))
			if *rewrite {
				if err := os.WriteFile(file, []byte(got), 0o644); err != nil {
					t.Fatal(err)
				}
			} else if got != string(want) {
				t.Fatalf("%s differs (-rewrite writes it anew):\n%s", file, got)
			}
		})
	}
}

func replay(t *testing.T, text string) string {
	var out strings.Builder
	s := &script{t: t}
	for line := range strings.Lines(text) {
		line = strings.TrimRight(line, "\n")
		switch {
		case strings.HasPrefix(line, "> "):
			out.WriteString(line + "\n" + s.run(strings.Fields(line[2:])))
		case strings.HasPrefix(line, "#") || line == "":
			out.WriteString(line + "\n")
		}
	}
	return out.String()
}

// script drives one core.
type script struct {
	t     *testing.T
	r     *Replica
	out   Effects
	order OrderID
	self  smr.Member
}

// args gives access to words of the form key=value.
type args struct {
	t     *testing.T
	words []string
}

func (a args) num(key string) uint64 {
	v := a.str(key)
	if v == "" {
		return 0
	}
	n, err := strconv.ParseUint(v, 10, 64)
	if err != nil {
		a.t.Fatalf("%v: %v", a.words, err)
	}
	return n
}

func (a args) str(key string) string {
	for _, w := range a.words {
		if rest, ok := strings.CutPrefix(w, key+"="); ok {
			return rest
		}
	}
	return ""
}

// config reads "epoch/reign/master/copies/n1:5,n2:6".
func (a args) config(key string) smr.Config {
	parts := strings.Split(a.str(key), "/")
	if len(parts) != 5 {
		return smr.Config{}
	}
	n := func(s string) uint64 { v, _ := strconv.ParseUint(s, 10, 64); return v }
	c := smr.Config{Epoch: smr.Epoch(n(parts[0])), Reign: smr.Epoch(n(parts[1])), Master: smr.NodeID(parts[2]), Copies: int(n(parts[3]))}
	for _, m := range strings.Split(parts[4], ",") {
		name, inc, _ := strings.Cut(m, ":")
		c.Members = append(c.Members, smr.Member{Node: smr.NodeID(name), Incarnation: smr.Incarnation(n(inc))})
	}
	return c
}

// history reads "1@0,2@100".
func (a args) history(key string) smr.History {
	var h smr.History
	if a.str(key) == "" {
		return nil
	}
	for _, s := range strings.Split(a.str(key), ",") {
		var epoch, from uint64
		fmt.Sscanf(s, "%d@%d", &epoch, &from)
		h = append(h, smr.Span{Epoch: smr.Epoch(epoch), From: smr.LSN(from)})
	}
	return h
}

func (s *script) run(words []string) string {
	a := args{t: s.t, words: words[1:]}
	s.order++
	conn := ConnID(a.num("conn"))
	var in Input
	switch words[0] {
	case "new":
		s.self = smr.Member{Node: smr.NodeID(a.str("node")), Incarnation: smr.Incarnation(a.num("inc"))}
		s.r = New(Options{Self: s.self, Life: smr.Life(a.num("life")), Blank: a.str("blank") == "true", Promise: smr.Epoch(a.num("promise")),
			Start: smr.LSN(a.num("start")), End: smr.LSN(a.num("end")), History: a.history("history"), Commit: smr.LSN(a.num("commit")), LeaseHold: a.num("hold"), LeaseTicks: int(a.num("lease")),
			Trim: TrimPolicy{Grain: smr.LSN(a.num("grain")), KeepBytes: smr.LSN(a.num("keep")), LagBytes: smr.LSN(a.num("lag")), KeepTicks: a.num("age")}})
		return s.state()
	case "tick":
		in = &Tick{Stamp: int64(a.num("stamp")), Clock: int64(a.num("clock"))}
	case "ticks": // all but the last one
		for range a.num("n") - 1 {
			s.r.Step(&Tick{Stamp: int64(a.num("stamp")), Clock: int64(a.num("clock"))}, &s.out)
		}
		in = &Tick{Stamp: int64(a.num("stamp")), Clock: int64(a.num("clock"))}
	case "attached":
		in = &Attached{Applied: smr.LSN(a.num("applied")), Checkpoint: smr.LSN(a.num("checkpoint"))}
	case "progress":
		in = &Progress{Applied: smr.LSN(a.num("applied")), Checkpoint: smr.LSN(a.num("checkpoint"))}
	case "detached":
		in = &Detached{}
	case "image":
		in = &ImageLoaded{LSN: smr.LSN(a.num("lsn")), History: a.history("history"), Stamp: int64(a.num("stamp")), Base: []byte("base")}
	case "done":
		in = &DiskDone{Ticket: s.r.ticket, Durable: s.r.end}
	case "fence":
		in = &Fence{Order: s.order, Epoch: smr.Epoch(a.num("epoch")), LeaseOver: a.str("over") == "true"}
	case "lead":
		in = &Lead{Order: s.order, Incarnation: smr.Incarnation(a.num("inc")), Life: smr.Life(a.num("life")), Config: a.config("config"), Base: a.config("base")}
	case "reconfigure":
		in = &Reconfigure{Order: s.order, Config: a.config("config"), Base: a.config("base")}
	case "established":
		in = &Established{Order: s.order, Config: a.config("config")}
	case "follow":
		in = &Follow{Order: s.order, Epoch: smr.Epoch(a.num("epoch")), Master: smr.NodeID(a.str("master"))}
	case "learn":
		in = &Learn{Order: s.order, Epoch: smr.Epoch(a.num("epoch"))}
	case "propose":
		body := smr.AppendRequest(nil, smr.Request{Session: 1, Sequence: a.num("seq"), Slot: smr.NoSlot, Payload: make([]byte, a.num("bytes"))})
		in = &Propose{Batches: []smr.Propose{{Count: 1, Requests: body}}}
	case "read":
		in = &ReadIndex{Client: ClientID(a.num("client")), ID: a.num("id"), Clock: int64(a.num("clock"))}
	case "hello":
		h := smr.SlaveHello{Epoch: smr.Epoch(a.num("epoch")), Incarnation: smr.Incarnation(a.num("inc"))}
		h.Node = smr.NodeID(a.str("node"))
		in = &PeerHello{Conn: conn, Hello: h}
	case "start":
		in = &PeerStart{Conn: conn, Start: smr.SlaveStart{Epoch: smr.Epoch(a.num("epoch")), From: smr.LSN(a.num("from"))}}
	case "ack":
		in = &PeerAck{Conn: conn, Ack: smr.Ack{Epoch: smr.Epoch(a.num("epoch")), Durable: smr.LSN(a.num("durable")), Round: a.num("round"), Leased: a.num("leased")}}
	case "connected":
		in = &Connected{Conn: conn}
	case "down":
		in = &ConnDown{Conn: conn}
	case "masterhello":
		h := smr.MasterHello{Epoch: smr.Epoch(a.num("epoch")), History: a.history("history"), Start: smr.LSN(a.num("start")), End: smr.LSN(a.num("end"))}
		h.Node = smr.NodeID(a.str("node"))
		in = &MasterHello{Conn: conn, Hello: h}
	case "stream": // one frame: an epoch start if config is given, else requests of some bytes
		f := smr.Frame{LSN: s.r.end, Epoch: smr.Epoch(a.num("frame")), Kind: smr.KindRequests, Count: 1, Commit: 0, Stamp: int64(a.num("stamp")),
			Body: smr.AppendRequest(nil, smr.Request{Session: 1, Sequence: 1, Slot: smr.NoSlot, Payload: make([]byte, a.num("bytes"))})}
		if c := a.config("config"); c.Epoch != 0 {
			f.Kind, f.Count, f.Body = smr.KindEpochStart, 0, smr.AppendConfig(nil, c)
		}
		in = &Received{Conn: conn, Append: smr.Append{Epoch: smr.Epoch(a.num("epoch")), Commit: smr.LSN(a.num("commit")), From: f.LSN, Frames: smr.AppendFrame(nil, f)}}
	case "beat":
		in = &Beat{Conn: conn, Heartbeat: smr.Heartbeat{Epoch: smr.Epoch(a.num("epoch")), Commit: smr.LSN(a.num("commit")), Round: a.num("round"), Writable: true, Lease: a.num("lease"), LeaseOver: a.str("over") == "true"}}
	default:
		s.t.Fatalf("unknown input %q", words[0])
	}
	s.r.Step(in, &s.out)
	text := effects(&s.out) + s.state()
	s.out = Effects{}
	return text
}

func (s *script) state() string {
	st := s.r.Status()
	text := fmt.Sprintf("  = %s epoch %d promise %d end %d durable %d commit %d", modeName(s.r.mode), st.Epoch, st.Promise, st.End, st.Durable, st.Commit)
	if st.Leading {
		text += fmt.Sprintf(" base %d reportable %d writable %v", st.Base.Epoch, st.Reportable, st.Writable)
	}
	if st.LeaseUntil > 0 {
		text += fmt.Sprintf(" lease until %d", st.LeaseUntil)
	}
	if st.Start > 0 || s.r.start > 0 {
		text += fmt.Sprintf(" start %d", s.r.start)
	}
	if st.NeedImage {
		text += fmt.Sprintf(" needs an image from %d on", st.ImageFrom)
	}
	return text + "\n"
}

// also is shown where there is something to show.
func also(what string, n uint64) string {
	if n == 0 {
		return ""
	}
	return fmt.Sprintf("%s %d", what, n)
}

func modeName(m mode) string {
	return [...]string{"idle", "fenced", "master", "slave", "stopped"}[m]
}

// effects lists what came out, one line each.
func effects(out *Effects) string {
	var b strings.Builder
	line := func(format string, args ...any) { fmt.Fprintf(&b, "  "+format+"\n", args...) }
	for _, op := range out.Disk {
		switch {
		case op.Append != nil:
			line("disk %d: append %d bytes", op.Ticket, len(op.Append))
		case op.Save != nil:
			line("disk %d: save promise %d%s", op.Ticket, op.Save.Promise, also(" hold", op.Save.LeaseHold))
		case op.Rewind != nil:
			line("disk %d: rewind to %d", op.Ticket, op.Rewind.To)
		case op.Begin != nil:
			line("disk %d: begin at %d with %s", op.Ticket, op.Begin.LSN, op.Begin.Base)
		case op.Trim != nil:
			line("disk %d: trim to %d", op.Ticket, op.Trim.To)
		}
	}
	for _, s := range out.Send {
		switch m := s.Message.(type) {
		case *smr.SlaveHello:
			line("send %d: hello epoch %d inc %d", s.Conn, m.Epoch, m.Incarnation)
		case *smr.MasterHello:
			line("send %d: master hello epoch %d history %v start %d end %d", s.Conn, m.Epoch, m.History, m.Start, m.End)
		case *smr.SlaveStart:
			line("send %d: start epoch %d from %d", s.Conn, m.Epoch, m.From)
		case *smr.Heartbeat:
			over := ""
			if m.LeaseOver {
				over = " lease over"
			}
			line("send %d: beat epoch %d commit %d round %d writable %v%s%s", s.Conn, m.Epoch, m.Commit, m.Round, m.Writable, also(" lease", m.Lease), over)
		case *smr.Ack:
			line("send %d: ack epoch %d durable %d round %d%s", s.Conn, m.Epoch, m.Durable, m.Round, also(" leased", m.Leased))
		case *smr.Reject:
			line("send %d: reject %d epoch %d: %s", s.Conn, m.Code, m.Epoch, m.Reason)
		}
	}
	for _, f := range out.Feed {
		line("feed %d from %d", f.Conn, f.From)
	}
	for _, c := range out.Hangup {
		line("hang up %d", c)
	}
	if out.StopDial {
		line("stop dialling")
	}
	if out.Dial != nil {
		line("dial %s epoch %d", out.Dial.Master, out.Dial.Epoch)
	}
	for _, r := range out.Replies {
		switch {
		case r.Err != nil:
			line("reply: %v", r.Err)
		case r.Answer != nil:
			line("reply: fence answer epoch %d inc %d life %d %v commit %d", r.Answer.Epoch, r.Answer.Incarnation, r.Answer.Life, r.Answer.Position, r.Answer.Commit)
		default:
			line("reply: done")
		}
	}
	for _, r := range out.Reads {
		line("read of client %d up to %d: at %d", r.Client, r.ID, r.LSN)
	}
	if out.DropClients {
		line("drop clients")
	}
	for _, e := range out.Events {
		line("event %s epoch %d lsn %d %s %s", e.Name, e.Epoch, e.LSN, e.Node, e.Text)
	}
	return b.String()
}
