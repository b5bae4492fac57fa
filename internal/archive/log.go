package archive

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"hash/crc32"
	"io"
	"io/fs"
	"net/url"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/klauspost/compress/zstd"

	"lockstep/smr"
)

const (
	// format 2 has the checksum of an object in its name.
	format = 2
	// MaxRange bounds the bytes of one range before compression.
	MaxRange = 16<<20 + smr.MaxFrame
	// maxManifest bounds a manifest in bytes.
	maxManifest = 64 << 10
	codingZstd  = "zstd"
)

// What can be wrong with an archive. Callers branch on these.
var (
	// ErrDamaged: an object or manifest is not as it was written.
	ErrDamaged = errors.New("damaged archive")
	// ErrGap: the ranges do not follow each other.
	ErrGap = errors.New("gap in the archive")
)

var castagnoli = crc32.MakeTable(crc32.Castagnoli)

// Range describes a range of the stream in the archive.
type Range struct {
	Format     int       `json:"format"`
	Cluster    string    `json:"cluster"`
	Group      string    `json:"group"`
	From       smr.LSN   `json:"from"`
	End        smr.LSN   `json:"end"`
	FirstStamp int64     `json:"first_stamp"` // log time of the first frame, Unix milliseconds
	LastStamp  int64     `json:"last_stamp"`
	Frames     int       `json:"frames"`
	Coding     string    `json:"coding,omitempty"` // zstd, or none
	Size       int64     `json:"size"`             // of the object, in bytes
	CRC32C     uint32    `json:"crc32c"`           // of the object
	Node       string    `json:"node"`             // that wrote it
	Created    time.Time `json:"created"`
	Check      uint32    `json:"check"` // CRC32C of this object as encoding/json writes it, with check 0
}

// Head implements Manifest.
func (r *Range) Head() (int, *uint32) { return r.Format, &r.Check }

// Span is a range by its name alone.
type Span struct{ From, End smr.LSN }

// Log is the archived stream of one group.
type Log struct {
	store          Store
	cluster, group string
}

// OpenLog returns the archived stream of a group. It touches nothing.
func OpenLog(store Store, cluster, group string) *Log {
	return &Log{store: store, cluster: cluster, group: group}
}

// Folder returns the folder of a group.
func Folder(cluster, group string) string { return escape(cluster) + "/" + escape(group) }

// escape makes a name one part of a path.
func escape(name string) string {
	escaped := url.PathEscape(name)
	if strings.HasPrefix(escaped, ".") { // no name of ours has to begin with one, and "." and ".." must not be there
		escaped = "%2E" + escaped[1:]
	}
	return escaped
}

func (l *Log) folder() string { return Folder(l.cluster, l.group) + "/log" }

func spanName(s Span) string { return fmt.Sprintf("%020d-%020d", uint64(s.From), uint64(s.End)) }

func (l *Log) manifestName(s Span) string { return l.folder() + "/" + spanName(s) + ".json" }

// objectName returns where the bytes of a range are. Two nodes may write the same range in other bytes, if one has a newer packer: each has an object of its own.
func (l *Log) objectName(r *Range) string {
	name := l.folder() + "/" + spanName(Span{r.From, r.End})
	if r.Format > 1 {
		name += fmt.Sprintf("-%08x", r.CRC32C)
	}
	name += ".log"
	if r.Coding == codingZstd {
		name += ".zst"
	}
	return name
}

// parseObject reads the name of an object.
func parseObject(name string) (Span, bool) {
	text, fits := strings.CutSuffix(strings.TrimSuffix(name, ".zst"), ".log")
	if at := strings.LastIndexByte(text, '-'); at > 20 && len(text)-at == 1+8 && strings.Trim(text[at+1:], "0123456789abcdef") == "" {
		text = text[:at]
	}
	span, ok := parseSpan(text)
	return span, ok && fits
}

// parseManifest reads the name of a manifest.
func parseManifest(name string) (Span, bool) {
	text, fits := strings.CutSuffix(name, ".json")
	span, ok := parseSpan(text)
	return span, ok && fits
}

// parseSpan is the inverse of spanName.
func parseSpan(text string) (Span, bool) {
	from, end, ok := strings.Cut(text, "-")
	if !ok || len(from) != 20 || len(end) != 20 {
		return Span{}, false
	}
	low, err1 := strconv.ParseUint(from, 10, 64)
	high, err2 := strconv.ParseUint(end, 10, 64)
	return Span{smr.LSN(low), smr.LSN(high)}, err1 == nil && err2 == nil && low < high
}

// Spans lists the ranges that are there, by From and then by End.
func (l *Log) Spans(ctx context.Context) ([]Span, error) {
	stored, _, err := l.Stored(ctx)
	spans := make([]Span, len(stored))
	for i := range stored {
		spans[i] = stored[i].Span
	}
	return spans, err
}

// Stored is a range, or what is there of one.
type Stored struct {
	Span
	Bytes int64    // of its objects as stored
	Names []string // of its objects in the store: more than one if it was written again in other bytes
}

// Stored lists the ranges that are there, by From and then by End, and the objects that have no manifest: they are being written, or
// a crash left them behind.
func (l *Log) Stored(ctx context.Context) (ranges, loose []Stored, err error) {
	objects, err := l.store.List(ctx, l.folder())
	if err != nil {
		return nil, nil, err
	}
	known := make(map[Span]*Stored)
	for _, object := range objects {
		if span, ok := parseManifest(object.Name); ok {
			known[span] = &Stored{Span: span} // if it stays without an object, who reads it says so
		}
	}
	for _, object := range objects {
		span, ok := parseObject(object.Name)
		name := l.folder() + "/" + object.Name
		switch r := known[span]; {
		case ok && r != nil:
			r.Bytes += object.Size
			r.Names = append(r.Names, name)
		case ok:
			loose = append(loose, Stored{span, object.Size, []string{name}})
		}
	}
	for _, r := range known {
		ranges = append(ranges, *r)
	}
	slices.SortFunc(ranges, func(a, b Stored) int { return a.compare(b.Span) })
	return ranges, loose, nil
}

func (s Span) compare(other Span) int {
	return cmp.Or(cmp.Compare(s.From, other.From), cmp.Compare(s.End, other.End))
}

func sortSpans(spans []Span) {
	slices.SortFunc(spans, Span.compare)
}

// Chain returns spans that follow each other and cover [from, end), of those sorted as Spans does. Errors: ErrGap, naming it.
func Chain(spans []Span, from, end smr.LSN) ([]Span, error) {
	var chain []Span
	next := 0 // spans below were looked at: they begin at or below at
	best := Span{}
	for at := from; at < end; at = best.End {
		for ; next < len(spans) && spans[next].From <= at; next++ {
			if spans[next].End > best.End {
				best = spans[next]
			}
		}
		switch {
		case best.End > at:
			chain = append(chain, best)
		case next < len(spans):
			return chain, fmt.Errorf("%w: the log from %d to %d is missing", ErrGap, at, min(spans[next].From, end))
		default:
			return chain, fmt.Errorf("%w: it ends at %d, and is needed up to %d", ErrGap, at, end)
		}
	}
	return chain, nil
}

// End returns the LSN up to which the newest part of the archive reaches; 0 if it is empty.
func (l *Log) End(ctx context.Context) (smr.LSN, error) {
	newest, err := l.Newest(ctx)
	return newest.End, err
}

// Newest returns the range that reaches farthest, zero if there is none.
func (l *Log) Newest(ctx context.Context) (newest Span, err error) {
	spans, err := l.Spans(ctx)
	for _, s := range spans {
		if s.End > newest.End {
			newest = s
		}
	}
	return newest, err
}

// Content is what is appended: whole frames that follow each other, all committed.
type Content struct {
	From                  smr.LSN
	Bytes                 []byte
	FirstStamp, LastStamp int64
	Frames                int
	Node                  string
}

// Append writes a range, durably on return. compress packs it with zstd. Appending what is there already writes it again.
func (l *Log) Append(ctx context.Context, c Content, compress bool) (Range, error) {
	if len(c.Bytes) == 0 || len(c.Bytes) > MaxRange {
		return Range{}, fmt.Errorf("archive the log from %d on: %d bytes: 1 to %d are possible", c.From, len(c.Bytes), MaxRange)
	}
	r := Range{
		Format: format, Cluster: l.cluster, Group: l.group, From: c.From, End: c.From + smr.LSN(len(c.Bytes)), FirstStamp: c.FirstStamp, LastStamp: c.LastStamp,
		Frames: c.Frames, Node: c.Node, Created: time.Now().UTC().Round(0),
	}
	stored := c.Bytes
	if compress {
		encoder, err := zstd.NewWriter(nil, zstd.WithEncoderLevel(zstd.SpeedFastest), zstd.WithEncoderConcurrency(1))
		if err != nil {
			return r, fmt.Errorf("archive the log from %d on: %w", c.From, err)
		}
		stored, r.Coding = encoder.EncodeAll(c.Bytes, nil), codingZstd
		if err := encoder.Close(); err != nil {
			return r, fmt.Errorf("archive the log from %d on: %w", c.From, err)
		}
	}
	return l.put(ctx, r, stored)
}

// put stores the bytes of a range, and then what describes them.
func (l *Log) put(ctx context.Context, r Range, stored []byte) (Range, error) {
	r.Size, r.CRC32C = int64(len(stored)), crc32.Checksum(stored, castagnoli)
	if err := putBytes(ctx, l.store, l.objectName(&r), stored); err != nil {
		return r, err
	}
	return r, WriteManifest(ctx, l.store, l.manifestName(Span{r.From, r.End}), &r)
}

func putBytes(ctx context.Context, store Store, name string, content []byte) error {
	return store.Put(ctx, name, func(w io.Writer) error {
		if _, err := w.Write(content); err != nil {
			return fmt.Errorf("archive %s: %w", name, err)
		}
		return nil
	})
}

// Range reads the manifest of a range. Errors: ErrDamaged, fs.ErrNotExist.
func (l *Log) Range(ctx context.Context, s Span) (Range, error) {
	name := l.manifestName(s)
	var r Range
	if err := ReadManifest(ctx, l.store, name, maxManifest, format, &r); err != nil {
		return Range{}, err
	}
	if r.Cluster != l.cluster || r.Group != l.group || r.From != s.From || r.End != s.End || r.Size < 0 || r.Size > 2*MaxRange || r.End-r.From > MaxRange {
		return Range{}, fmt.Errorf("%w: %s: it describes something else", ErrDamaged, name)
	}
	return r, nil
}

// Read returns the bytes of a range. Errors: ErrDamaged, naming the object.
func (l *Log) Read(ctx context.Context, s Span) (Range, []byte, error) {
	r, err := l.Range(ctx, s)
	if err != nil {
		return r, nil, err
	}
	name := l.objectName(&r)
	stored, err := readObject(ctx, l.store, name, r.Size)
	switch {
	case errors.Is(err, fs.ErrNotExist):
		return r, nil, fmt.Errorf("%w: %s is missing", ErrDamaged, name)
	case err != nil:
		return r, nil, err
	case int64(len(stored)) != r.Size || crc32.Checksum(stored, castagnoli) != r.CRC32C:
		return r, nil, fmt.Errorf("%w: %s has %d bytes with checksum %08x instead of %d with %08x", ErrDamaged, name, len(stored), crc32.Checksum(stored, castagnoli), r.Size, r.CRC32C)
	}
	content := stored
	if r.Coding == codingZstd {
		decoder, err := zstd.NewReader(nil, zstd.WithDecoderMaxMemory(MaxRange), zstd.WithDecoderConcurrency(1))
		if err != nil {
			return r, nil, fmt.Errorf("archive %s: %w", name, err)
		}
		defer decoder.Close()
		if content, err = decoder.DecodeAll(stored, nil); err != nil {
			return r, nil, fmt.Errorf("%w: %s: %w", ErrDamaged, name, err)
		}
	}
	if smr.LSN(len(content)) != r.End-r.From {
		return r, nil, fmt.Errorf("%w: %s holds %d bytes instead of %d", ErrDamaged, name, len(content), r.End-r.From)
	}
	return r, content, nil
}

// readObject reads an object of at most limit bytes.
func readObject(ctx context.Context, store Store, name string, limit int64) ([]byte, error) {
	in, err := store.Open(ctx, name)
	if err != nil {
		return nil, err
	}
	defer in.Close()
	content, err := io.ReadAll(io.LimitReader(in, limit+1))
	if err != nil {
		return nil, fmt.Errorf("archive %s: %w", name, err)
	}
	return content, nil
}

// Remove removes a range, as Stored lists it: its manifest first, so that it is not there without its bytes.
func (l *Log) Remove(ctx context.Context, r Stored) error {
	err := l.store.Remove(ctx, l.manifestName(r.Span))
	for _, name := range r.Names {
		err = errors.Join(err, l.store.Remove(ctx, name))
	}
	return err
}

// Identity names a group whose archive this is.
type Identity struct{ Cluster, Group string }

// Groups lists the groups of which an archive holds something.
func Groups(ctx context.Context, store Store) ([]Identity, error) {
	clusters, err := store.List(ctx, ".")
	if err != nil {
		return nil, err
	}
	var list []Identity
	for _, c := range clusters {
		cluster, isFolder := strings.CutSuffix(c.Name, "/")
		if !isFolder {
			continue
		}
		groups, err := store.List(ctx, cluster)
		if err != nil {
			return nil, err
		}
		for _, g := range groups {
			group, isFolder := strings.CutSuffix(g.Name, "/")
			clusterName, err1 := url.PathUnescape(cluster)
			groupName, err2 := url.PathUnescape(group)
			if isFolder && err1 == nil && err2 == nil {
				list = append(list, Identity{clusterName, groupName})
			}
		}
	}
	return list, nil
}
