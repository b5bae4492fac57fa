package checkpoint

import (
	"context"
	"encoding/binary"
	"errors"
	"io"
	"math/rand/v2"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/cockroachdb/pebble/v2/vfs"

	"lockstep/internal/kv"
)

// goroutineProcess is a Process that is a goroutine, so that its file system can be a test's.
type goroutineProcess struct {
	io.Reader
	io.Writer
	kill  func()
	ended chan struct{}
}

func (p *goroutineProcess) Kill() { p.kill() }

func (p *goroutineProcess) Wait() error {
	<-p.ended
	return nil
}

// processOn returns what begins such processes; killed, if it is not nil, is called with what kills one when it begins.
func processOn(fs vfs.FS, killed func(kill func())) func() (Process, error) {
	if fs == nil {
		fs = vfs.Default
	}
	return processWith(fs, nil, killed)
}

// processWith is processOn with courtesy.
func processWith(fs vfs.FS, courtesy *Courtesy, killed func(kill func())) func() (Process, error) {
	return func() (Process, error) {
		inRead, inWrite := io.Pipe()
		outRead, outWrite := io.Pipe()
		p := &goroutineProcess{Reader: outRead, Writer: inWrite, ended: make(chan struct{}), kill: func() {
			inRead.CloseWithError(io.ErrUnexpectedEOF)
			inWrite.CloseWithError(io.ErrClosedPipe)
			outRead.CloseWithError(io.ErrClosedPipe)
		}}
		go func() {
			defer close(p.ended)
			serveApart(fs, inRead, outWrite, func() {}, courtesy)
			_ = inRead.Close()
			_ = outWrite.Close()
		}()
		if killed != nil {
			killed(p.kill)
		}
		return p, nil
	}
}

// bothWays runs a test with images that are written by the engine, and by a process of their own.
func bothWays(t *testing.T, test func(t *testing.T, apart bool)) {
	t.Run("here", func(t *testing.T) {
		t.Parallel()
		test(t, false)
	})
	t.Run("apart", func(t *testing.T) {
		t.Parallel()
		test(t, true)
	})
}

// opened opens an engine.
func opened(t testing.TB, apart bool, options Options) *Engine {
	t.Helper()
	if options.Cluster == "" {
		options.Cluster, options.Group = "c", "g"
	}
	if apart {
		options.Apart = processOn(options.FS, nil)
	}
	e, err := Open(options)
	if err != nil {
		t.Fatal(err)
	}
	return e
}

// What could go wrong: a process that is killed leaves half an image that is taken for one, or files that fill the disk; the image behind it goes on upon what
// was not there; or the engine waits for it for ever.
func TestProcessThatIsKilledHarmsNothing(t *testing.T) {
	t.Parallel()
	for seed := range uint64(8) {
		dir, n, dice := t.TempDir(), newNode(), rand.New(rand.NewPCG(seed, 1))
		var kill func()
		e, err := Open(Options{Dir: dir, Cluster: "c", Group: "g", Hurried: true, Apart: processOn(nil, func(k func()) { kill = k })})
		if err != nil {
			t.Fatal(err)
		}
		left := 0
		n.busy = func() {
			n.do("set", "b"+strconv.Itoa(dice.IntN(1000)), strings.Repeat("y", dice.IntN(300)))
			if left--; left == 0 {
				kill()
			}
		}
		failed := 0
		for range 4 {
			for range 1000 {
				n.do("set", "key"+strconv.Itoa(dice.IntN(5000)), strings.Repeat("x", dice.IntN(200)))
			}
			left = 1 + dice.IntN(12)
			last := e.Last()
			made, err := e.Take(t.Context(), n)
			if err == nil {
				if left <= 0 {
					t.Errorf("seed %d: an image at %d of a process that was killed", seed, made.LSN)
				}
				continue
			}
			failed++
			if e.Last() != last {
				t.Errorf("seed %d: after %v the last image is another one", seed, err)
			}
			left = -1
			if made, err = e.Take(t.Context(), n); err != nil || made.Written != made.Bytes {
				t.Errorf("seed %d: the next image is no full one: %+v, %v", seed, made, err)
			}
		}
		left = -1
		n.busy = nil
		n.do("set", "last", "1")
		take(t, e, n)
		if err := e.Close(); err != nil {
			t.Fatal(err)
		}
		e = engineAt(t, nil, dir)
		if loaded, _ := restore(t, e); loaded.Digest() != n.digest() {
			t.Errorf("seed %d: another state was restored", seed)
		}
		if err := e.Close(); err != nil {
			t.Fatal(err)
		}
		if names, err := filepath.Glob(filepath.Join(dir, "*")); err != nil || len(names) > 2 {
			t.Errorf("seed %d: left behind are %q, %v", seed, names, err)
		}
		if failed == 0 {
			t.Errorf("seed %d: no process was killed in time", seed)
		}
	}
}

// What could go wrong: a process goes on without whoever began it, or takes what it does not understand for rows.
func TestProcessEndsWithItsInput(t *testing.T) {
	t.Parallel()
	blockOf := func(kind byte, content string) string {
		return string(binary.LittleEndian.AppendUint32(nil, uint32(len(content)))) + string(kind) + content
	}
	dir := t.TempDir()
	begin := blockOf(blockBegin, `{"Dir":`+strconv.Quote(dir)+`,"Live":"live-apart1"}`)
	var rows kv.ImageRows
	rows.Add(kv.RowPut, []byte("a0"), []byte("value"))
	for name, test := range map[string]struct {
		input string
		gone  bool
		says  string
	}{
		"nothing":                   {"", true, ""},
		"half a head":               {"\x00\x00", true, ""},
		"half an order":             {begin[:20], true, ""},
		"an order alone":            {begin, true, ""},
		"rows alone":                {begin + blockOf(blockOrdered, string(rows.Bytes())), true, ""},
		"all rows":                  {begin + blockOf(blockLast, string(rows.Bytes())), true, ""},
		"no order":                  {blockOf(blockLast, ""), false, "out of turn"},
		"two orders":                {begin + begin, false, "out of turn"},
		"sealed without rows":       {begin + blockOf(blockSeal, "{}"), false, "out of turn"},
		"an unknown block":          {begin + blockOf('x', ""), false, "unknown kind"},
		"torn rows":                 {begin + blockOf(blockLast, "abc"), false, "torn"},
		"an unknown operation":      {begin + blockOf(blockLast, "\xff\x01\x00\x00\x00\x00k"), false, "unknown operation"},
		"no JSON":                   {blockOf(blockBegin, "x"), false, "invalid character"},
		"upon an image that is not": {blockOf(blockBegin, `{"Dir":`+strconv.Quote(dir)+`,"Live":"l","Before":{"lsn":5,"files":[{"name":"1.sst"}]}}`), false, "1.sst"},
	} {
		gone := make(chan struct{}, 1)
		out := &strings.Builder{}
		serveApart(vfs.Default, strings.NewReader(test.input), out, func() { gone <- struct{}{} }, nil)
		if test.gone && len(gone) == 0 || !strings.Contains(out.String(), test.says) || test.says == "" && out.String() != "" {
			t.Errorf("%s: gone: %v; it said %q", name, len(gone) == 1, out.String())
		}
		if names, err := filepath.Glob(filepath.Join(dir, "*")); err != nil || len(names) > 0 {
			t.Errorf("%s: left behind are %q, %v", name, names, err)
		}
	}
}

// deafProcess says what a test wants.
type deafProcess struct {
	io.Reader
	wrote error
	ended error
	once  sync.Once
}

func (p *deafProcess) Write(b []byte) (int, error) { return len(b), p.wrote }
func (p *deafProcess) Kill()                       {}
func (p *deafProcess) Wait() error                 { return p.ended }

// What could go wrong: an image is announced of a process that ended with an error, or told of another one; or the reason is lost on the way.
func TestProcessIsBelievedWhatItSaysWhole(t *testing.T) {
	t.Parallel()
	broken := errors.New("exit status 2: panic: no")
	for name, test := range map[string]struct {
		said         string
		wrote, ended error
		want         string
		is           error
	}{
		"nothing":               {"", nil, nil, "said nothing", nil},
		"a panic":               {"", nil, broken, "exit status 2: panic", broken},
		"a panic in the middle": {"", io.ErrClosedPipe, broken, "exit status 2: panic", broken},
		"half a line":           {`{"sealed":{"ls`, nil, broken, "exit status 2", broken},
		"another image":         {`{"sealed":{"lsn":77}}`, nil, nil, "LSN 77", nil},
		"an image and an end":   {`{"sealed":{"lsn":100}}`, nil, broken, "exit status 2", broken},
		"no space":              {`{"failed":"the disk is full","cause":"no space"}`, nil, nil, "the disk is full", ErrNoSpace},
		"no space, early":       {`{"failed":"the disk is full","cause":"no space"}`, io.ErrClosedPipe, nil, "the disk is full", ErrNoSpace},
		"cold":                  {`{"note":"x","error":"y"}` + "\n" + `{"failed":"rotten","cause":"cold"}`, nil, nil, "rotten", ErrCold},
		"a cause that is none":  {`{"failed":"so it is","cause":"other"}`, nil, nil, "so it is", nil},
		"early without reason":  {`{"sealed":{"lsn":100}}`, io.ErrClosedPipe, nil, "before it had all rows", nil},
	} {
		n := newNode()
		n.do("set", "a", "1")
		e, err := Open(Options{Dir: t.TempDir(), Cluster: "c", Group: "g", Apart: func() (Process, error) {
			return &deafProcess{Reader: strings.NewReader(test.said), wrote: test.wrote, ended: test.ended}, nil
		}})
		if err != nil {
			t.Fatal(err)
		}
		_, err = e.Take(t.Context(), n)
		if err == nil || !strings.Contains(err.Error(), test.want) || test.is != nil && !errors.Is(err, test.is) {
			t.Errorf("%s: %v", name, err)
		}
		if err := e.Close(); err != nil {
			t.Fatal(err)
		}
	}
	e, err := Open(Options{Dir: t.TempDir(), Apart: func() (Process, error) { return nil, broken }})
	if err != nil {
		t.Fatal(err)
	}
	if _, err := e.Take(context.Background(), newNode()); !errors.Is(err, broken) {
		t.Errorf("a process that does not begin: %v", err)
	}
}

// What could go wrong: an image that somebody waits for is written at the pace of one that nobody does, by the engine or by a process of its own.
func TestImageThatIsAwaitedDoesNotRest(t *testing.T) {
	t.Parallel()
	for _, waiting := range []bool{false, true} {
		var asked, worked atomic.Int64
		courtesy := Courtesy{
			Idle:   func() (float64, bool) { asked.Add(1); return 8, true },
			Worked: func() time.Duration { return time.Duration(worked.Add(int64(paceWork))) }, // each look finds enough of it
		}
		options := Options{Dir: t.TempDir(), Cluster: "c", Group: "g", Waiting: func() bool { return waiting }}
		options.Apart = processWith(vfs.Default, courtesy.begin(), nil)
		e, err := Open(options)
		if err != nil {
			t.Fatal(err)
		}
		n := newNode()
		for i := range 3000 {
			n.do("set", "key"+strconv.Itoa(i), strings.Repeat("x", 50))
		}
		take(t, e, n)
		if rested := asked.Load() > 0; rested == waiting {
			t.Errorf("somebody waits: %v, and it rested: %v", waiting, rested)
		}
		if err := e.Close(); err != nil {
			t.Fatal(err)
		}
	}
}

// What could go wrong: who begins to wait when all rows are written is not heard while the image is put in order and verified.
func TestProcessIsToldToHurryWhileItSeals(t *testing.T) {
	t.Parallel()
	var sealing atomic.Bool
	hurried := make(chan struct{})
	begin := processWith(vfs.Default, nil, nil)
	options := Options{Dir: t.TempDir(), Cluster: "c", Group: "g", Waiting: sealing.Load}
	options.Apart = func() (Process, error) {
		p, err := begin()
		return &listened{Process: p, wrote: func(b []byte) {
			switch b[blockHead-1] { // of the first block of a write
			case blockSeal:
				sealing.Store(true)
			case blockHurry:
				close(hurried)
			}
		}, hold: hurried}, err
	}
	e, err := Open(options)
	if err != nil {
		t.Fatal(err)
	}
	n := newNode()
	n.do("set", "key", "value")
	take(t, e, n)
	if err := e.Close(); err != nil {
		t.Fatal(err)
	}
}

// listened is a Process whose input is listened to, and whose answers come when hold is closed.
type listened struct {
	Process
	wrote func([]byte)
	hold  <-chan struct{}
}

func (p *listened) Write(b []byte) (int, error) {
	p.wrote(b)
	return p.Process.Write(b)
}

func (p *listened) Read(b []byte) (int, error) {
	<-p.hold
	return p.Process.Read(b)
}
