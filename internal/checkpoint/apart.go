package checkpoint

import (
	"bufio"
	"bytes"
	"context"
	"encoding/binary"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"sync"
	"sync/atomic"
	"time"

	"github.com/cockroachdb/pebble/v2/vfs"

	"lockstep/internal/kv"
)

// An image may be written by a process of its own: pebble, which compresses, compares and verifies, then takes neither memory nor time of the
// process whose machine it is, and the kernel can let everybody else go first. One process writes one image. It is of the same program, so that what they say
// to each other needs no versions:
//
//	to its standard input, blocks     bytes
//	  length of the content           4, little endian
//	  kind                            1
//	  content
//
//	  'b'  it begins: an order, as JSON
//	  'e'  rows that were taken out of turn (kv.ImageRows.Bytes)
//	  'o'  rows behind them: the end of a slice
//	  'l'  as 'o', and there are no more
//	  's'  it is to be sealed: what is known of the manifest, as JSON
//	  'h'  somebody waits for it: there are no rests from here on. It may come at any time behind 'b', and is taken as soon as it is read
//
//	from its standard output, lines of JSON
//	  {"note": TEXT, "error": TEXT}   to be logged
//	  {"sealed": MANIFEST}            the last one, or
//	  {"failed": TEXT, "cause": TEXT} this
//
// It ends when its input does, so that it does not outlive whoever began it.

// Kinds of blocks.
const (
	blockBegin   = 'b'
	blockEarly   = 'e'
	blockOrdered = 'o'
	blockLast    = 'l'
	blockSeal    = 's'
	blockHurry   = 'h'
	blockHead    = 5
	// blocksAhead is how many blocks are read ahead.
	blocksAhead = 4
	// hurryPoll is how often it is looked whether somebody waits while an image is sealed.
	hurryPoll = 20 * time.Millisecond
)

// Process is one that writes an image: what is written is its standard input, what is read its standard output.
type Process interface {
	io.ReadWriter
	// Kill ends it at once.
	Kill()
	// Wait returns when it has ended, and says how if that was not by itself.
	Wait() error
}

// order is what a process is told first.
type order struct {
	Dir, Live string
	Memory    int64
	Hurried   bool
	Before    *Manifest // the image upon which this one is written; nil: it is a full one
	Cold      *coldOrder
}

// coldOrder says where the values are that are not in memory, and where they may be opened.
type coldOrder struct {
	From, Dir string
	Files     []File
}

// answer is one line that a process says.
type answer struct {
	Note   string    `json:"note,omitempty"`
	Error  string    `json:"error,omitempty"`
	Sealed *Manifest `json:"sealed,omitempty"`
	Failed string    `json:"failed,omitempty"`
	Cause  string    `json:"cause,omitempty"`
}

// causes are the errors by which others tell what is to be done.
var causes = map[string]error{"no space": ErrNoSpace, "cold": ErrCold, "damaged": ErrDamaged}

// apartError is what a process failed with.
type apartError struct {
	text  string
	cause error // nil if it is none of causes
}

func (e *apartError) Error() string { return e.text }
func (e *apartError) Unwrap() error { return e.cause }

// apart is the writer that lets a process of its own write an image.
type apart struct {
	options Options
	live    string // the name of the directory of its store
	coldDir string
	process Process
	answers chan answer // the last one; closed when the process has closed its output
	block   []byte
	hurried bool // it was told so
}

func newApart(options Options, live string) *apart {
	return &apart{options: options, live: live, answers: make(chan answer, 1)}
}

// begin implements writer.
func (a *apart) begin(before *Manifest, cold *coldRows) error {
	process, err := a.options.Apart()
	if err != nil {
		return fmt.Errorf("begin the process that writes the image: %w", err)
	}
	a.process = process
	go a.listen()
	o := order{Dir: a.options.Dir, Live: a.live, Memory: a.options.Memory, Hurried: a.options.Hurried, Before: before}
	if cold != nil {
		a.coldDir = a.options.FS.PathJoin(a.options.Dir, coldName+"-"+a.live)
		o.Cold = &coldOrder{From: cold.dir, Dir: a.coldDir, Files: cold.files}
	}
	return a.tell(context.Background(), blockBegin, o)
}

// listen takes what the process says.
func (a *apart) listen() {
	defer close(a.answers)
	in := json.NewDecoder(bufio.NewReader(a.process))
	for {
		var said answer
		if in.Decode(&said) != nil {
			return // it has ended; Wait says how
		}
		if said.Note != "" {
			a.options.Logger.Warn(said.Note, "error", said.Error)
			continue
		}
		a.answers <- said
		return
	}
}

// bring implements writer.
func (a *apart) bring(ctx context.Context, early, ordered *kv.ImageRows, last bool) error {
	if early.Len() == 0 && ordered.Len() == 0 && !last {
		return ctx.Err()
	}
	a.block = a.block[:0]
	a.hurry()
	if early.Len() > 0 {
		a.append(blockEarly, early.Bytes())
	}
	kind := byte(blockOrdered)
	if last {
		kind = blockLast
	}
	a.append(kind, ordered.Bytes())
	return a.send(ctx)
}

func (a *apart) append(kind byte, content []byte) {
	a.block = append(binary.LittleEndian.AppendUint32(a.block, uint32(len(content))), kind)
	a.block = append(a.block, content...)
}

// hurry appends a block that says that somebody waits, if that is so and was not said.
func (a *apart) hurry() {
	if !a.hurried && a.options.Waiting != nil && a.options.Waiting() {
		a.hurried = true
		a.append(blockHurry, nil)
	}
}

// tell sends a block of JSON.
func (a *apart) tell(ctx context.Context, kind byte, content any) error {
	encoded, err := json.Marshal(content)
	if err != nil {
		return err
	}
	a.block = a.block[:0]
	a.append(kind, encoded)
	return a.send(ctx)
}

// send sends the blocks that were appended.
func (a *apart) send(ctx context.Context) error {
	stop := context.AfterFunc(ctx, a.process.Kill)
	defer stop()
	if _, err := a.process.Write(a.block); err != nil {
		if ctx.Err() != nil {
			return ctx.Err()
		}
		if _, err := a.result(); err != nil {
			return err
		}
		return errors.New("the process that writes the image ended before it had all rows")
	}
	return ctx.Err()
}

// result waits until the process has ended, and returns what it made.
func (a *apart) result() (*Manifest, error) {
	said, any := <-a.answers
	ended := a.process.Wait()
	switch {
	case any && said.Sealed != nil && ended == nil:
		return said.Sealed, nil
	case any && said.Failed != "":
		return nil, &apartError{said.Failed, causes[said.Cause]}
	case ended == nil:
		ended = errors.New("it said nothing")
	}
	return nil, fmt.Errorf("the process that writes the image ended: %w", ended)
}

// seal implements writer.
func (a *apart) seal(ctx context.Context, m, _ *Manifest) error {
	if err := a.tell(ctx, blockSeal, m); err != nil {
		return err
	}
	stop := context.AfterFunc(ctx, a.process.Kill)
	hurried := a.hurryOn()
	made, err := a.result()
	hurried()
	stop()
	switch {
	case ctx.Err() != nil:
		return ctx.Err()
	case err != nil:
		return err
	case made.LSN != m.LSN || made.Cluster != m.Cluster || made.Group != m.Group:
		return fmt.Errorf("the process that writes the image made one at LSN %d", made.LSN)
	}
	*m = *made
	a.clear()
	return nil
}

// hurryOn goes on telling the process to hurry while it needs nothing else, until what it returns has returned.
func (a *apart) hurryOn() (end func()) {
	ended, done := make(chan struct{}), make(chan struct{})
	go func() {
		defer close(done)
		poll := time.NewTicker(hurryPoll)
		defer poll.Stop()
		for !a.hurried && a.options.Waiting != nil {
			select {
			case <-ended:
				return
			case <-poll.C:
			}
			a.block = a.block[:0]
			if a.hurry(); a.hurried {
				_, _ = a.process.Write(a.block) // if it has ended, result says so
			}
		}
	}()
	return func() {
		close(ended)
		<-done
	}
}

// discard implements writer.
func (a *apart) discard() {
	if a.process == nil {
		return
	}
	a.process.Kill()
	_ = a.process.Wait() // it was killed
	a.clear()
}

// clear removes what the process has left.
func (a *apart) clear() {
	_ = a.options.FS.RemoveAll(a.options.FS.PathJoin(a.options.Dir, a.live))
	if a.coldDir != "" {
		_ = a.options.FS.RemoveAll(a.coldDir)
	}
}

// ServeApart writes one image: it is what a process does that Options.Apart begins. gone is called when the input ends before all was said. It
// returns when there is nothing more to say; what went wrong was told by then.
func ServeApart(in io.Reader, out io.Writer, gone func(), courtesy Courtesy) {
	serveApart(vfs.Default, in, out, gone, courtesy.begin())
}

func serveApart(fs vfs.FS, in io.Reader, out io.Writer, gone func(), courtesy *Courtesy) {
	lines := &sayer{out: json.NewEncoder(out)}
	ctx, cancel := context.WithCancel(context.Background())
	defer cancel()
	blocks := make(chan block, blocksAhead)
	free := make(chan []byte, blocksAhead+2)
	var waiting atomic.Bool
	go func() {
		defer close(blocks)
		if readBlocks(ctx, in, blocks, free, &waiting) != nil && ctx.Err() == nil {
			gone()
		}
	}()
	s := &apartStore{free: free, courtesy: courtesy, options: Options{FS: fs, Waiting: waiting.Load, Logger: slog.New(&noteHandler{lines: lines})}}
	defer s.close()
	for b := range blocks {
		made, err := s.take(ctx, b)
		if err == nil && made == nil {
			continue
		}
		s.close()
		said := answer{Sealed: made}
		if err != nil {
			said = answer{Failed: err.Error()}
			for name, cause := range causes {
				if errors.Is(err, cause) {
					said.Cause = name
				}
			}
		}
		_ = lines.say(said) // nobody is there to be told
		return
	}
}

// sayer says lines; who works for the store may have something to note at any time.
type sayer struct {
	mu  sync.Mutex
	out *json.Encoder
}

func (s *sayer) say(a answer) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.out.Encode(a)
}

type block struct {
	kind    byte
	content []byte
}

// readBlocks reads blocks until they end, or ctx does.
func readBlocks(ctx context.Context, in io.Reader, blocks chan<- block, free <-chan []byte, waiting *atomic.Bool) error {
	buffered := bufio.NewReaderSize(in, 64<<10)
	var head [blockHead]byte
	for {
		if _, err := io.ReadFull(buffered, head[:]); err != nil {
			return err
		}
		if head[4] == blockHurry {
			waiting.Store(true)
			continue
		}
		var content []byte
		select {
		case content = <-free:
		default:
		}
		length := int64(binary.LittleEndian.Uint32(head[:]))
		into := bytes.NewBuffer(content[:0])
		if _, err := io.CopyN(into, buffered, length); err != nil { // memory grows with what comes
			return err
		}
		select {
		case blocks <- block{head[4], into.Bytes()}:
		case <-ctx.Done():
			return ctx.Err()
		}
	}
}

// apartStore is the store of a process that writes one image.
type apartStore struct {
	options  Options
	courtesy *Courtesy // nil: it takes half of a processor
	store    *store
	order    order
	cold     *coldRows
	early    kv.ImageRows
	last     bool
	free     chan<- []byte
}

// take does what a block says; the image is what the last one leads to.
func (s *apartStore) take(ctx context.Context, b block) (*Manifest, error) {
	if (b.kind == blockBegin) != (s.store == nil) || (b.kind == blockSeal) != s.last {
		return nil, fmt.Errorf("a block %q came out of turn", b.kind)
	}
	switch b.kind {
	case blockBegin:
		if err := json.Unmarshal(b.content, &s.order); err != nil {
			return nil, err
		}
		return nil, s.begin()
	case blockEarly:
		rows := kv.RowsOf(b.content)
		s.early.Append(&rows)
	case blockOrdered, blockLast:
		rows := kv.RowsOf(b.content)
		s.last = b.kind == blockLast
		if err := s.store.bring(ctx, &s.early, &rows, s.last); err != nil {
			return nil, err
		}
		s.early.Reset()
	case blockSeal:
		m := &Manifest{}
		if err := json.Unmarshal(b.content, m); err != nil {
			return nil, err
		}
		return m, s.store.seal(ctx, m, s.order.Before)
	default:
		return nil, fmt.Errorf("a block of the unknown kind %q", b.kind)
	}
	select {
	case s.free <- b.content:
	default:
	}
	return nil, nil
}

// begin opens the store and the values that are not in memory.
func (s *apartStore) begin() error {
	s.options.Dir, s.options.Memory, s.options.Hurried = s.order.Dir, s.order.Memory, s.order.Hurried
	opened := newStore(s.options, s.order.Live)
	opened.courtesy = s.courtesy
	s.store = &opened
	if cold := s.order.Cold; cold != nil {
		var err error
		if s.cold, err = s.store.openCold(cold.From, cold.Dir, cold.Files); err != nil {
			return fmt.Errorf("open the values that are not in memory: %w", err)
		}
	}
	if s.order.Before != nil {
		if err := s.store.openFrom(s.order.Before); err != nil {
			return err
		}
	}
	return s.store.begin(s.order.Before, s.cold)
}

// close gives up what is open, with its directories.
func (s *apartStore) close() {
	if s.store == nil {
		return
	}
	s.store.discard()
	if s.cold != nil {
		_ = s.store.closeCold(s.cold)
		s.cold = nil
	}
}

// noteHandler is a slog.Handler that tells the process that began this one.
type noteHandler struct{ lines *sayer }

// Enabled implements slog.Handler.
func (*noteHandler) Enabled(context.Context, slog.Level) bool { return true }

// Handle implements slog.Handler.
func (h *noteHandler) Handle(_ context.Context, r slog.Record) error {
	said := answer{Note: r.Message}
	r.Attrs(func(a slog.Attr) bool {
		if a.Key == "error" {
			said.Error = a.Value.String()
		}
		return true
	})
	return h.lines.say(said)
}

// WithAttrs implements slog.Handler.
func (h *noteHandler) WithAttrs([]slog.Attr) slog.Handler { return h }

// WithGroup implements slog.Handler.
func (h *noteHandler) WithGroup(string) slog.Handler { return h }
