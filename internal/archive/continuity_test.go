package archive

import (
	"context"
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"lockstep/smr"
)

var errUnreadable = errors.New("unreadable")

// ownLog is a log in memory that begins at LSN 0. From bad on it cannot be read whole.
type ownLog struct {
	frames []smr.Frame
	bytes  []byte
	bad    smr.LSN
	walks  int
}

// ownLogOf returns a log of one frame for each body.
func ownLogOf(bodies ...string) *ownLog {
	o := &ownLog{}
	for _, body := range bodies {
		f := smr.Frame{LSN: smr.LSN(len(o.bytes)), Epoch: 1, Body: []byte(body)}
		o.frames = append(o.frames, f)
		o.bytes = smr.AppendFrame(o.bytes, f)
	}
	o.bad = o.end()
	return o
}

func (o *ownLog) end() smr.LSN { return smr.LSN(len(o.bytes)) }

func (o *ownLog) ReadAt(p []byte, lsn, _ smr.LSN) (int, error) {
	if lsn+smr.LSN(len(p)) > o.bad {
		return 0, errUnreadable
	}
	return copy(p, o.bytes[lsn:]), nil
}

func (o *ownLog) Frames(buf []byte, from, limit smr.LSN, visit func(smr.Frame, []byte) error) (smr.LSN, []byte, error) {
	o.walks++
	for _, f := range o.frames {
		switch {
		case f.LSN < from || f.End() > limit:
			continue
		case f.End() > o.bad:
			return from, buf, errUnreadable
		}
		if err := visit(f, o.bytes[f.LSN:f.End()]); err != nil {
			return from, buf, err
		}
		from = f.End()
	}
	return from, buf, nil
}

// What could go wrong: ranges of another history are taken for those of this log, or damage and what is not known yet for another history. Or each look reads the archive.
func TestContinuity(t *testing.T) {
	t.Parallel()
	own := ownLogOf("one", "two", strings.Repeat("three", 100), "four")
	other := ownLogOf("one", "TWO", strings.Repeat("three", 100), "four")
	second, third := own.frames[1], own.frames[2]
	middle := third.LSN + 7 // ranges need not begin or end where frames do: an image may
	all := Own{Reader: own, End: own.end(), Safe: own.end()}
	for name, c := range map[string]struct {
		archived *ownLog
		span     Span
		own      Own
		bad      smr.LSN // 0: the log can be read
		want     Finding
		err      error
		looks    int // how often two questions read the log frame by frame
	}{
		"the archive is empty":                 {own, Span{}, all, 0, Continues, nil, 0},
		"a part of the log":                    {own, Span{0, second.End()}, all, 0, Continues, nil, 0},
		"a part that begins inside of a frame": {own, Span{middle, own.end()}, all, 0, Continues, nil, 0},
		"a frame differs":                      {other, Span{0, own.end()}, all, 0, Broken, nil, 1},
		"the frame that differs lies below":    {other, Span{middle, own.end()}, all, 0, Continues, nil, 0},
		"only the head of a frame is archived": {other, Span{0, second.LSN + smr.HeaderSize}, all, 0, Broken, nil, 1},
		"beyond the log":                       {own, Span{0, own.end()}, Own{Reader: own, End: third.End(), Safe: third.End()}, 0, Broken, nil, 0},
		"beyond what is known to be committed": {other, Span{0, own.end()}, Own{Reader: own, End: own.end(), Safe: third.End()}, 0, Undecided, nil, 0},
		"below where the log begins":           {other, Span{0, second.End()}, Own{Reader: own, Start: second.End(), End: own.end(), Safe: own.end()}, 0, Continues, nil, 0},
		"from below where the log begins":      {other, Span{0, own.end()}, Own{Reader: own, Start: second.End(), End: own.end(), Safe: own.end()}, 0, Continues, nil, 0},
		"the log is damaged":                   {own, Span{0, own.end()}, all, middle, Undecided, errUnreadable, 2},
		"it differs below the damage":          {other, Span{0, own.end()}, all, middle, Broken, nil, 1},
	} {
		_, l, _ := openTest(t)
		ctx := context.Background()
		if c.span.End > 0 {
			content := Content{From: c.span.From, Bytes: c.archived.bytes[c.span.From:c.span.End], Frames: 1, Node: "n1"}
			if _, err := l.Append(ctx, content, true); err != nil {
				t.Fatal(err)
			}
		}
		own.walks, own.bad = 0, own.end()
		if c.bad > 0 {
			own.bad = c.bad
		}
		var judge continuity
		for range 2 {
			if found, err := judge.judge(ctx, l, c.span, c.own); found != c.want || !errors.Is(err, c.err) {
				t.Errorf("%s: %d, %v", name, found, err)
			}
		}
		if own.walks != c.looks {
			t.Errorf("%s: the log was walked %d times", name, own.walks)
		}
		judge.accept(c.span)
		if found, err := judge.judge(ctx, l, c.span, Own{Reader: own}); found != Continues || err != nil {
			t.Errorf("%s: accepted, and then %d, %v", name, found, err)
		}
	}
	own.bad = own.end()
	_, l, root := openTest(t)
	span := Span{0, own.end()}
	r, err := l.Append(context.Background(), Content{Bytes: own.bytes, Frames: 4, Node: "n1"}, false)
	if err != nil {
		t.Fatal(err)
	}
	if err := os.Remove(filepath.Join(root, filepath.FromSlash(l.objectName(&r)))); err != nil {
		t.Fatal(err)
	}
	if found, err := new(continuity).judge(context.Background(), l, span, all); found != Undecided || !errors.Is(err, ErrDamaged) {
		t.Errorf("a damaged range: %d, %v", found, err)
	}
}
