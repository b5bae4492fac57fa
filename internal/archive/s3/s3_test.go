package s3

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"net/http/httptest"
	"net/url"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/minio/minio-go/v7/pkg/credentials"

	"lockstep/internal/archive"
	"lockstep/internal/backup"
	"lockstep/internal/checkpoint"
	"lockstep/internal/kv"
	"lockstep/smr"
)

func storeAt(t *testing.T, server *httptest.Server, where, access, secret string) *store {
	t.Helper()
	p, err := parse(where + "?endpoint=" + url.QueryEscape(strings.TrimPrefix(server.URL, "https://")) + "&region=eu-west-1&style=path")
	if err != nil {
		t.Fatal(err)
	}
	s, err := open(p, credentials.NewStaticV4(access, secret, ""), server.Client().Transport)
	if err != nil {
		t.Fatal(err)
	}
	return s
}

func put(t *testing.T, s archive.Store, name string, content []byte) {
	t.Helper()
	err := s.Put(t.Context(), name, func(w io.Writer) error {
		for len(content) > 0 { // in pieces, as who archives does
			n := min(len(content), 100_000)
			if _, err := w.Write(content[:n]); err != nil {
				return err
			}
			content = content[n:]
		}
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
}

func read(t *testing.T, s archive.Store, name string) []byte {
	t.Helper()
	r, err := s.Open(t.Context(), name)
	if err != nil {
		t.Fatal(err)
	}
	content, err := io.ReadAll(r)
	if err = errors.Join(err, r.Close()); err != nil {
		t.Fatal(err)
	}
	return content
}

// What could go wrong: an object comes back changed, small, empty or sent in parts; names with signs that addresses escape are signed
// or listed wrongly; a long list ends after its first page; what is removed stays.
func TestObjectsAreKeptAsTheyWereWritten(t *testing.T) {
	f, server := newFake(t)
	for _, where := range []string{"s3://bucket", "s3://bucket/a/prefix"} {
		s := storeAt(t, server, where, "AK", "secret/key")
		big := bytes.Repeat([]byte("0123456789abcdef"), (2*partBytes+12345)/16)
		contents := map[string][]byte{"c/g/log/1": []byte("small"), "c/g/log/2": {}, "c/g/images/big": big, "%2Ex/with blank+plus/ü": []byte("x")}
		for name, content := range contents {
			put(t, s, name, content)
		}
		for name, content := range contents {
			if got := read(t, s, name); !bytes.Equal(got, content) {
				t.Errorf("%s: %s has %d bytes instead of %d, or others", where, name, len(got), len(content))
			}
		}
		f.pages = 3
		for i := range 10 {
			put(t, s, fmt.Sprintf("many/%02d", i), []byte{byte(i)})
		}
		for folder, want := range map[string]string{
			".": "[{%2Ex/ 0} {c/ 0} {many/ 0}]", "c/g": "[{images/ 0} {log/ 0}]", "c/g/log": "[{1 5} {2 0}]", "%2Ex/with blank+plus": "[{ü 1}]", "none": "[]",
			"many": "[{00 1} {01 1} {02 1} {03 1} {04 1} {05 1} {06 1} {07 1} {08 1} {09 1}]",
		} {
			list, err := s.List(t.Context(), folder)
			if got := fmt.Sprint(list); err != nil || got != want {
				t.Errorf("%s: folder %s holds %v, %v", where, folder, got, err)
			}
		}
		for range 2 { // what is not there is no error
			if err := s.Remove(t.Context(), "c/g/log/1"); err != nil {
				t.Error(err)
			}
		}
		if _, err := s.Open(t.Context(), "c/g/log/1"); !errors.Is(err, fs.ErrNotExist) {
			t.Errorf("what was removed: %v", err)
		}
	}
}

// What could go wrong: half an object is left when who writes it fails in the middle, or the context ends.
func TestWhatIsNotWrittenWholeIsNotThere(t *testing.T) {
	f, server := newFake(t)
	s := storeAt(t, server, "s3://bucket/p", "AK", "secret/key")
	broken := errors.New("the source is broken")
	for _, size := range []int{0, 10, 2 * partBytes} {
		err := s.Put(t.Context(), "x", func(w io.Writer) error {
			_, err := w.Write(make([]byte, size))
			return errors.Join(err, broken)
		})
		if !errors.Is(err, broken) {
			t.Errorf("after %d bytes: %v", size, err)
		}
	}
	ctx, cancel := context.WithCancel(t.Context())
	err := s.Put(ctx, "x", func(w io.Writer) error {
		for {
			if _, err := w.Write(make([]byte, partBytes)); err != nil {
				return err
			}
			cancel()
		}
	})
	if err == nil {
		t.Error("an object that was given up is written")
	}
	if len(f.objects) > 0 {
		t.Errorf("there are %d objects", len(f.objects))
	}
	for _, name := range []string{"", "/x", "a/../b", "../x", "a/"} {
		if err := s.Put(t.Context(), name, func(io.Writer) error { return nil }); err == nil {
			t.Errorf("%q is a name", name)
		}
	}
}

// What could go wrong: an operator reads a code of the service and not what to do; a service that is busy for a moment is an error.
func TestErrorsSayWhatToDo(t *testing.T) {
	f, server := newFake(t)
	for _, c := range []struct{ where, secret, want string }{
		{"s3://bucket", "wrong", "AWS_SECRET_ACCESS_KEY"}, {"s3://other", "secret/key", "make it, or name another"},
	} {
		s := storeAt(t, server, c.where, "AK", c.secret)
		_, listErr := s.List(t.Context(), "x")
		putErr := s.Put(t.Context(), "x", func(w io.Writer) error { _, err := w.Write([]byte("x")); return err })
		for _, err := range []error{listErr, putErr, s.Remove(t.Context(), "x")} {
			if err == nil || !strings.Contains(err.Error(), c.want) || strings.Contains(err.Error(), c.secret) {
				t.Errorf("%s: %v", c.where, err)
			}
		}
	}
	s := storeAt(t, server, "s3://bucket", "AK", "secret/key")
	f.failing = 2
	put(t, s, "x", []byte("x"))
	server.Close()
	if _, err := s.List(t.Context(), "x"); err == nil || !strings.Contains(err.Error(), "can be reached") {
		t.Errorf("a service that is not there: %v", err)
	}
}

// What could go wrong: credentials in an address reach logs; a word that is not understood is passed over.
func TestAddresses(t *testing.T) {
	for _, where := range []string{
		"s3://", "s3://user:hunter2@bucket/x", "s3://bucket:80", "s3://bucket/a/../b", "s3://bucket?tls=maybe", "s3://bucket?endpoint=", "s3://bucket?endpoint=http://x",
		"s3://bucket?what=1", "s3://bucket?region=a&region=b", "s3://b%zz",
	} {
		if err := Check(where); err == nil || strings.Contains(err.Error(), "hunter2") {
			t.Errorf("%s: %v", where, err)
		}
	}
	for _, where := range []string{"s3://bucket", "s3://bucket/", "s3://b/p/q?endpoint=h:9000&region=r&tls=off&style=host", "/a/directory"} {
		if err := Check(where); err != nil {
			t.Errorf("%s: %v", where, err)
		}
	}
	if _, err := Open(t.TempDir()); err != nil {
		t.Error(err)
	}
	if _, err := Open("/no/such/directory"); err == nil {
		t.Error("a directory that does not exist is an archive")
	}
}

// The archived log works on such a store as on a directory.
func TestArchivedLog(t *testing.T) {
	_, server := newFake(t)
	s := storeAt(t, server, "s3://bucket/p", "AK", "secret/key")
	log := archive.OpenLog(s, "c", "g")
	for i := range 3 {
		content := archive.Content{Bytes: bytes.Repeat([]byte{byte(i)}, 1000), Frames: 1, Node: "n1"}
		for range i {
			content.From += 1000
		}
		if _, err := log.Append(t.Context(), content, i%2 == 0); err != nil {
			t.Fatal(err)
		}
	}
	spans, err := log.Spans(t.Context())
	if err != nil || len(spans) != 3 {
		t.Fatal(spans, err)
	}
	chain, err := archive.Chain(spans, 0, 3000)
	if err != nil || len(chain) != 3 {
		t.Fatal(chain, err)
	}
	for i, span := range chain {
		if _, content, err := log.Read(t.Context(), span); err != nil || len(content) != 1000 || content[0] != byte(i) {
			t.Errorf("range %v: %d bytes, %v", span, len(content), err)
		}
	}
	groups, err := archive.Groups(t.Context(), s)
	if err != nil || len(groups) != 1 || groups[0].Cluster != "c" {
		t.Errorf("groups %v, %v", groups, err)
	}
}

// What could go wrong: parts of an object whose writer died are paid for for ever; or those of one that is being written are given up.
func TestPartsOfTheDeadAreGivenUp(t *testing.T) {
	f, server := newFake(t)
	s := storeAt(t, server, "s3://bucket/p", "AK", "secret/key")
	f.started = time.Unix(1_700_000_000, 0)
	f.uploads["mine"], f.begun["mine"] = map[int][]byte{}, "p/c/g/images/1/a.sst"
	f.uploads["other"], f.begun["other"] = map[int][]byte{}, "p/c/h/images/1/a.sst"
	for _, test := range []struct {
		before time.Time
		swept  int
	}{{f.started, 0}, {f.started.Add(time.Second), 1}, {f.started.Add(time.Hour), 0}} {
		if swept, err := s.Sweep(t.Context(), "c/g", test.before); swept != test.swept || err != nil {
			t.Errorf("before %v: %d, %v", test.before, swept, err)
		}
	}
	if len(f.uploads) != 1 || f.uploads["other"] == nil {
		t.Errorf("left: %v", f.uploads)
	}
}

// What could go wrong: what is kept of an archive is another matter in a bucket than in a directory: images and log are listed, sized and
// removed there, too, and what remains is whole.
func TestBoundsOfAnArchiveInABucket(t *testing.T) {
	_, server := newFake(t)
	s := storeAt(t, server, "s3://bucket/p", "AK", "secret/key")
	ctx := t.Context()
	a := backup.Archive{Store: s, Cluster: "c1", Group: "g1"}
	engine, err := checkpoint.Open(checkpoint.Options{Dir: t.TempDir(), Cluster: "c1", Group: "g1", Hurried: true, Base: func(smr.LSN) ([]byte, error) { return []byte("base"), nil }})
	if err != nil {
		t.Fatal(err)
	}
	defer engine.Close()
	machine := &state{kv.New()}
	var list []backup.Backup
	for i := range 4 {
		from := smr.LSN(1000 * i)
		if _, err := a.Log().Append(ctx, archive.Content{From: from, Bytes: make([]byte, 1000), Frames: 1, Node: "n1"}, i%2 == 0); err != nil {
			t.Fatal(err)
		}
		machine.m.Advance(int64(1_700_000_000_000+i), from+500)
		m, err := engine.Take(ctx, machine)
		if err != nil {
			t.Fatal(err)
		}
		b, err := a.Create(ctx, backup.Source{Dir: filepath.Join(engine.Images(), checkpoint.Name(m.LSN)), Node: "n1"})
		if err != nil {
			t.Fatal(err)
		}
		list = append(list, b)
	}
	p, err := a.Plan(ctx, backup.Keep{Images: 2}, time.Now())
	if err != nil || len(p.Images) != 2 || len(p.Log) != 2 || p.Bytes() < list[0].Bytes+list[1].Bytes+1000 {
		t.Fatalf("%+v, %v", p, err)
	}
	if err := a.Remove(ctx, p); err != nil {
		t.Fatal(err)
	}
	left, problems, err := a.List(ctx)
	if err != nil || len(problems) > 0 || len(left) != 2 || left[0].LSN != list[2].LSN {
		t.Errorf("%+v, %v, %v", left, problems, err)
	}
	if gap, err := a.GapBehind(ctx, left[0].LSN); gap != nil || err != nil {
		t.Errorf("%v, %v", gap, err)
	}
	if _, err := a.Fetch(ctx, left[0].LSN, filepath.Join(t.TempDir(), "fetched")); err != nil {
		t.Error(err)
	}
	if again, err := a.Plan(ctx, backup.Keep{Images: 2}, time.Now()); err != nil || !again.Empty() {
		t.Errorf("again: %+v, %v", again, err)
	}
}

// state is a machine that nothing is applied to meanwhile.
type state struct{ m *kv.Machine }

func (s *state) Between(use func(*kv.Machine)) { use(s.m) }
func (s *state) Beside(use func(*kv.Machine))  { use(s.m) }
