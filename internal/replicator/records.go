package replicator

import (
	"context"
	"errors"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"lockstep/internal/trust"
	"lockstep/log"
	"lockstep/proto"
	"lockstep/smr"
)

const (
	// maxRecords bounds an answer of Records in frames, maxBodies the bodies in it, in bytes.
	maxRecords = 200
	maxBodies  = 512 << 10
	// recordBuffer is how much of the log is read at once, in bytes. A longer frame is passed over: only its place is shown.
	recordBuffer = 1 << 20
	// maxRecordReaders bounds who reads records at once: a page may cost reading a whole log file. Full: others are told to try again.
	maxRecordReaders = 2
)

// Records implements proto.ReplicatorServer. It reads the log files beside the writer and never touches the loop.
func (m *manage) Records(ctx context.Context, in *proto.RecordsRequest) (*proto.RecordsReply, error) {
	if err := m.addressed(ctx, in.GetTarget()); err != nil {
		return nil, err
	}
	if in.GetCount() < 1 || in.GetCount() > maxRecords {
		return nil, status.Errorf(codes.InvalidArgument, "%d frames: use 1 to %d", in.GetCount(), maxRecords)
	}
	if caller := trust.CallerOf(ctx); in.GetBodies() && !caller.May(trust.Operator) {
		return nil, status.Errorf(codes.PermissionDenied, "%s may not read what clients wrote: it needs the role %s", caller.Peer, trust.Operator)
	}
	select {
	case m.readers <- struct{}{}:
		defer func() { <-m.readers }()
	default:
		return nil, status.Error(codes.ResourceExhausted, "others read this log now; try again")
	}
	state := m.node.state()
	reply := &proto.RecordsReply{Start: state.GetStart(), End: state.GetDurable(), Commit: state.GetCommit()}
	reader, err := m.node.openReader()
	if err != nil {
		return nil, status.Errorf(codes.Unavailable, "%v", err)
	}
	defer reader.Close()
	p := &pager{ctx: ctx, reader: reader, limit: smr.LSN(reply.GetEnd()), buffer: make([]byte, recordBuffer)}
	if p.files, err = log.Survey(m.node.cfg.fs, m.node.logDir); err == nil {
		err = p.fill(in, reply)
	}
	switch {
	case errors.Is(err, log.ErrTrimmed):
		return nil, status.Errorf(codes.OutOfRange, "trimmed meanwhile: %v", err)
	case errors.Is(err, log.ErrCorrupt):
		return nil, status.Errorf(codes.DataLoss, "%v", err)
	case err != nil:
		return nil, status.Errorf(codes.Unavailable, "%v", err)
	}
	return reply, nil
}

// errPageFull ends a walk over frames.
var errPageFull = errors.New("the page is full")

// pager finds the frames of one page.
type pager struct {
	ctx    context.Context
	reader *log.Reader
	files  []log.FileInfo // the oldest first
	limit  smr.LSN        // a frame boundary: everything below is durable
	buffer []byte
}

func (p *pager) fill(in *proto.RecordsRequest, reply *proto.RecordsReply) error {
	from, limit := smr.LSN(in.GetFrom()), p.limit
	if in.GetBefore() > 0 {
		limit = min(limit, smr.LSN(in.GetBefore()))
		first, err := p.lastBefore(limit, int(in.GetCount()))
		if err != nil {
			return err
		}
		from = first
	}
	room := maxBodies
	return p.walk(p.startFor(from), func(f smr.Frame, size int) error {
		switch {
		case f.LSN < from:
			return nil
		case f.LSN >= limit || len(reply.Records) == int(in.GetCount()):
			return errPageFull
		}
		record := &proto.Record{Lsn: uint64(f.LSN), Size: uint32(size)}
		if f.Kind != 0 {
			record.Epoch, record.Commit, record.TimeMs, record.Kind, record.Count = uint64(f.Epoch), uint64(f.Commit), f.Stamp, f.Kind.String(), uint32(f.Count)
		}
		if f.Kind == smr.KindEpochStart || in.GetBodies() && f.Kind == smr.KindRequests && len(f.Body) <= room {
			record.Body = append([]byte(nil), f.Body...)
			room -= min(room, len(f.Body))
		}
		reply.Records = append(reply.Records, record)
		return nil
	})
}

// lastBefore returns where the last count frames below limit begin.
func (p *pager) lastBefore(limit smr.LSN, count int) (smr.LSN, error) {
	for at := p.fileBefore(limit); ; at-- {
		if at < 0 {
			return 0, nil // from the beginning on
		}
		var last []smr.LSN
		err := p.walk(p.files[at].FirstFrame, func(f smr.Frame, _ int) error {
			if f.LSN >= limit {
				return errPageFull
			}
			if last = append(last, f.LSN); len(last) >= 2*count {
				last = append(last[:0], last[len(last)-count:]...)
			}
			return nil
		})
		switch {
		case err != nil:
			return 0, err
		case len(last) >= count:
			return last[len(last)-count], nil
		case at == 0 && len(last) > 0:
			return last[0], nil
		}
	}
}

// fileBefore is the newest file in which a frame below limit begins, -1 if there is none.
func (p *pager) fileBefore(limit smr.LSN) int {
	for i := len(p.files) - 1; i >= 0; i-- {
		if p.files[i].FirstFrame < min(limit, p.files[i].End) {
			return i
		}
	}
	return -1
}

// startFor is a frame boundary at or below from, as near as the files tell; the first one of all if from lies below that.
func (p *pager) startFor(from smr.LSN) smr.LSN {
	if i := p.fileBefore(from + 1); i >= 0 {
		return p.files[i].FirstFrame
	}
	if len(p.files) > 0 {
		return p.files[0].FirstFrame
	}
	return p.limit
}

// walk visits the frames from a boundary on. Of frames longer than the buffer only LSN and size are known: their kind is 0.
func (p *pager) walk(at smr.LSN, visit func(f smr.Frame, size int) error) error {
	for at < p.limit {
		if err := p.ctx.Err(); err != nil {
			return err
		}
		var head [smr.HeaderSize]byte
		n, err := p.reader.ReadAt(head[:], at, p.limit)
		if err != nil {
			return err
		}
		size, err := smr.PeekFrame(head[:n])
		if err != nil {
			return errors.Join(log.ErrCorrupt, err)
		}
		if size > len(p.buffer) {
			err, at = visit(smr.Frame{LSN: at}, size), at+smr.LSN(size)
		} else {
			at, p.buffer, err = p.reader.Frames(p.buffer, at, p.limit, func(f smr.Frame, raw []byte) error { return visit(f, len(raw)) })
		}
		if errors.Is(err, errPageFull) {
			return nil
		}
		if err != nil {
			return err
		}
	}
	return nil
}
