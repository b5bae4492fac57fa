package archive

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/klauspost/compress/zstd"
	"pgregory.net/rapid"

	"lockstep/internal/steady"

	"lockstep/smr"
)

var _ = steady.Draws()

func openTest(t *testing.T) (*Dir, *Log, string) {
	t.Helper()
	root := t.TempDir()
	store, err := OpenDir(root)
	if err != nil {
		t.Fatal(err)
	}
	return store, OpenLog(store, "c/1", "g1"), root
}

// What could go wrong: a range comes back changed, or with another coding; nothing tells where the archive ends.
func TestRangesComeBack(t *testing.T) {
	t.Parallel()
	_, l, root := openTest(t)
	ctx := context.Background()
	if end, err := l.End(ctx); end != 0 || err != nil {
		t.Errorf("an empty archive ends at %d, %v", end, err)
	}
	text := []byte(strings.Repeat("what was committed ", 1000))
	for i, compress := range []bool{false, true} {
		from := smr.LSN(i * len(text))
		r, err := l.Append(ctx, Content{From: from, Bytes: text, FirstStamp: 5, LastStamp: 9, Frames: 3, Node: "n1"}, compress)
		if err != nil {
			t.Fatal(err)
		}
		if packed := r.Size < int64(len(text))/2; packed != compress {
			t.Errorf("compress %v: %d bytes of %d", compress, r.Size, len(text))
		}
		got, content, err := l.Read(ctx, Span{from, r.End})
		if err != nil || !bytes.Equal(content, text) || got != r {
			t.Errorf("%+v, %d bytes, %v", got, len(content), err)
		}
	}
	end, err := l.End(ctx)
	if end != smr.LSN(2*len(text)) || err != nil {
		t.Errorf("the archive ends at %d, %v", end, err)
	}
	if _, err := os.Stat(filepath.Join(root, "c%2F1", "g1", "log")); err != nil {
		t.Error(err)
	}
	spans, _, err := l.Stored(ctx)
	if err != nil || len(spans) != 2 {
		t.Fatalf("%v, %v", spans, err)
	}
	if err := errors.Join(l.Remove(ctx, spans[0]), l.Remove(ctx, spans[0]), l.Remove(ctx, spans[1])); err != nil || !isEmpty(root) {
		t.Errorf("after the removal: %v, empty: %v", err, isEmpty(root))
	}
}

func isEmpty(dir string) bool {
	entries, err := os.ReadDir(dir)
	return err == nil && len(entries) == 0
}

// What could go wrong: a flipped bit, a cut or a missing object is served. Every byte of object and manifest is damaged.
func TestDamageIsNoticed(t *testing.T) {
	t.Parallel()
	_, l, root := openTest(t)
	ctx := context.Background()
	r, err := l.Append(ctx, Content{From: 100, Bytes: []byte("some bytes that repeat, repeat, repeat"), Frames: 1, Node: "n1"}, true)
	if err != nil {
		t.Fatal(err)
	}
	span := Span{r.From, r.End}
	for _, name := range []string{l.objectName(&r), l.manifestName(span)} {
		path := filepath.Join(root, filepath.FromSlash(name))
		good, err := os.ReadFile(path)
		if err != nil {
			t.Fatal(err)
		}
		write := func(content []byte) {
			if err := os.WriteFile(path, content, 0o644); err != nil {
				t.Fatal(err)
			}
		}
		for i := range good {
			bad := bytes.Clone(good)
			bad[i] ^= 1 << (i % 8)
			write(bad)
			if _, _, err := l.Read(ctx, span); err == nil {
				t.Errorf("%s: byte %d flipped: no error", name, i)
			}
		}
		write(good[:len(good)-1])
		if _, _, err := l.Read(ctx, span); !errors.Is(err, ErrDamaged) {
			t.Errorf("%s cut: %v", name, err)
		}
		write(good)
	}
	if err := os.Remove(filepath.Join(root, filepath.FromSlash(l.objectName(&r)))); err != nil {
		t.Fatal(err)
	}
	if _, _, err := l.Read(ctx, span); !errors.Is(err, ErrDamaged) || !strings.Contains(err.Error(), "is missing") {
		t.Errorf("missing: %v", err)
	}
	other := OpenLog(l.store, "c2", "g1")
	if _, err := other.Range(ctx, span); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("of another cluster: %v", err)
	}
}

// Two nodes write the same range, one with a newer packer, and it dies on the way. What could go wrong: what is listed does not match its object, although both had
// the same bytes to keep. And a range of the format before is read and removed.
func TestRangesInOtherBytes(t *testing.T) {
	t.Parallel()
	store, l, root := openTest(t)
	ctx := context.Background()
	content := Content{From: 100, Bytes: []byte(strings.Repeat("what was committed ", 1000)), Frames: 1, Node: "n1"}
	first, err := l.Append(ctx, content, true)
	if err != nil {
		t.Fatal(err)
	}
	encoder, err := zstd.NewWriter(nil, zstd.WithEncoderLevel(zstd.SpeedBestCompression))
	if err != nil {
		t.Fatal(err)
	}
	packed := append(encoder.EncodeAll(content.Bytes, nil), encoder.EncodeAll(nil, nil)...)
	dying := OpenLog(&dyingStore{Store: store, left: 1}, "c/1", "g1")
	other := first
	other.Node = "n2"
	if r, err := dying.put(ctx, other, packed); err == nil || r.CRC32C == first.CRC32C {
		t.Fatalf("%+v, %v", r, err)
	}
	span := Span{first.From, first.End}
	read := func(node string) {
		t.Helper()
		if r, got, err := l.Read(ctx, span); err != nil || !bytes.Equal(got, content.Bytes) || r.Node != node {
			t.Errorf("%+v, %d bytes, %v", r, len(got), err)
		}
	}
	read("n1")
	if _, err := l.put(ctx, other, packed); err != nil {
		t.Fatal(err)
	}
	read("n2")
	older := first
	older.Format, older.Node = 1, "n3"
	older.From, older.End = first.End, first.End+first.End-first.From
	if _, err := l.put(ctx, older, packed); err != nil {
		t.Fatal(err)
	}
	span = Span{older.From, older.End}
	read("n3")
	ranges, loose, err := l.Stored(ctx)
	if err != nil || len(ranges) != 2 || len(loose) != 0 || ranges[0].Bytes != first.Size+int64(len(packed)) || ranges[1].Bytes != int64(len(packed)) {
		t.Errorf("%+v, %+v, %v", ranges, loose, err)
	}
	for _, r := range ranges {
		if err := l.Remove(ctx, r); err != nil {
			t.Error(err)
		}
	}
	if !isEmpty(root) {
		t.Error("something is left")
	}
}

// dyingStore takes so many objects.
type dyingStore struct {
	Store
	left int
}

// Put implements Store.
func (d *dyingStore) Put(ctx context.Context, name string, write func(io.Writer) error) error {
	if d.left--; d.left < 0 {
		return errors.New("dead")
	}
	return d.Store.Put(ctx, name, write)
}

// What could go wrong: a chain has a hole, does not cover what was asked for, or is not found although it is there. It is
// held against marking every LSN.
func TestChainCoversOrNamesTheGap(t *testing.T) {
	t.Parallel()
	rapid.Check(t, func(t *rapid.T) {
		var spans []Span
		for range rapid.IntRange(0, 12).Draw(t, "spans") {
			from := rapid.IntRange(0, 30).Draw(t, "from")
			spans = append(spans, Span{smr.LSN(from), smr.LSN(from + rapid.IntRange(1, 12).Draw(t, "size"))})
		}
		sortSpans(spans)
		from := smr.LSN(rapid.IntRange(0, 35).Draw(t, "start"))
		end := from + smr.LSN(rapid.IntRange(0, 20).Draw(t, "length"))
		covered := true
		for at := from; at < end; at++ {
			here := false
			for _, s := range spans {
				here = here || s.From <= at && at < s.End
			}
			covered = covered && here
		}
		chain, err := Chain(spans, from, end)
		if covered != (err == nil) || err != nil && !errors.Is(err, ErrGap) {
			t.Fatalf("%v over [%d, %d): covered %v, got %v, %v", spans, from, end, covered, chain, err)
		}
		at := from
		for _, s := range chain {
			if s.From > at || s.End <= at {
				t.Fatalf("%v over [%d, %d): chain %v", spans, from, end, chain)
			}
			at = s.End
		}
		if err == nil && at < end {
			t.Fatalf("%v over [%d, %d): chain %v ends too early", spans, from, end, chain)
		}
	})
}

// What could go wrong: half an object is left under its name, or one outside of the archive is touched, or an archive is made
// where a file system was to be mounted.
func TestStoreKeepsObjectsWhole(t *testing.T) {
	t.Parallel()
	store, _, root := openTest(t)
	ctx := context.Background()
	put := func(name, text string, err error) error {
		return store.Put(ctx, name, func(w io.Writer) error {
			_, _ = io.WriteString(w, text)
			return err
		})
	}
	broken := errors.New("broken")
	if err := put("a/b", "first", nil); err != nil {
		t.Fatal(err)
	}
	if err := put("a/b", "second, in part", broken); !errors.Is(err, broken) {
		t.Error(err)
	}
	if err := put("a/c", "in part", broken); !errors.Is(err, broken) {
		t.Error(err)
	}
	in, err := store.Open(ctx, "a/b")
	if err != nil {
		t.Fatal(err)
	}
	defer in.Close()
	if content, _ := io.ReadAll(in); string(content) != "first" {
		t.Errorf("%q", content)
	}
	list, err := store.List(ctx, "a")
	if err != nil || fmt.Sprint(list) != "[{b 5}]" {
		t.Errorf("%v, %v", list, err)
	}
	if list, err := store.List(ctx, "none"); err != nil || len(list) != 0 {
		t.Errorf("%v, %v", list, err)
	}
	for _, name := range []string{"../x", "/etc/x", "a/../../x", "a//b", ""} {
		if err := put(name, "x", nil); err == nil {
			t.Errorf("object %q was made", name)
		}
	}
	if escape("..") == ".." || escape(".") == "." {
		t.Error("a cluster may leave its folder")
	}
	gone := filepath.Join(root, "gone")
	if _, err := OpenDir(gone); err == nil || !strings.Contains(err.Error(), "mount what should be there") {
		t.Errorf("no directory: %v", err)
	}
	if err := os.Mkdir(gone, 0o755); err != nil {
		t.Fatal(err)
	}
	mounted, err := OpenDir(gone)
	if err != nil {
		t.Fatal(err)
	}
	if err := os.Remove(gone); err != nil {
		t.Fatal(err)
	}
	if err := mounted.Put(ctx, "a/b", func(io.Writer) error { return nil }); err == nil {
		t.Error("an archive that went away was made anew")
	}
}

// What could go wrong: what a crash left of an object stays for ever; or a file that is being written is removed, or a good one.
func TestLeftoversAreSwept(t *testing.T) {
	t.Parallel()
	store, l, root := openTest(t)
	ctx := context.Background()
	r, err := l.Append(ctx, Content{From: 1, Bytes: []byte("abc"), Frames: 1, Node: "n1"}, false)
	if err != nil {
		t.Fatal(err)
	}
	folder := filepath.Join(root, "c%2F1", "g1", "images", "1")
	if err := os.MkdirAll(folder, 0o755); err != nil {
		t.Fatal(err)
	}
	now := time.Now()
	for name, age := range map[string]time.Duration{"old": 48 * time.Hour, "young": time.Hour} {
		path := filepath.Join(folder, tempPrefix+name)
		if err := errors.Join(os.WriteFile(path, []byte("part"), 0o600), os.Chtimes(path, now, now.Add(-age))); err != nil {
			t.Fatal(err)
		}
	}
	for _, want := range []int{1, 0} {
		if swept, err := store.Sweep(ctx, Folder("c/1", "g1"), now.Add(-24*time.Hour)); swept != want || err != nil {
			t.Errorf("swept %d, %v; want %d", swept, err, want)
		}
	}
	if _, err := os.Stat(filepath.Join(folder, tempPrefix+"young")); err != nil {
		t.Error(err)
	}
	if swept, err := store.Sweep(ctx, "none", now); swept != 0 || err != nil {
		t.Errorf("of a folder that is not there: %d, %v", swept, err)
	}
	if swept, err := store.Sweep(ctx, Folder("c/1", "g1"), now.Add(time.Hour)); swept != 1 || err != nil {
		t.Errorf("swept %d, %v", swept, err)
	}
	if _, err := os.Stat(folder); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("an empty folder stays: %v", err)
	}
	if _, content, err := l.Read(ctx, Span{r.From, r.End}); err != nil || string(content) != "abc" {
		t.Errorf("%q, %v", content, err)
	}
}
