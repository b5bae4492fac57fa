package replicator

import (
	"crypto/sha256"
	"errors"

	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"lockstep/log"
	"lockstep/proto"
	"lockstep/smr"
)

const (
	// maxDigestStep bounds a range of Digests in bytes, maxDigests how many one call may ask for.
	maxDigestStep = 16 << 20
	maxDigests    = 1 << 16
	// digestBuffer is how much of the log is read at once, in bytes.
	digestBuffer = 256 << 10
)

// Digests implements proto.ReplicatorServer. It reads the log files beside the writer and never touches the loop.
func (m *manage) Digests(in *proto.DigestsRequest, out grpc.ServerStreamingServer[proto.RangeDigest]) error {
	if err := m.addressed(out.Context(), in.GetTarget()); err != nil {
		return err
	}
	state := m.node.state()
	from, end, step := in.GetFrom(), in.GetEnd(), uint64(in.GetStep())
	known := min(state.GetCommit(), state.GetDurable())
	switch {
	case step < 1 || step > maxDigestStep:
		return status.Errorf(codes.InvalidArgument, "ranges of %d bytes: use 1 to %d", step, maxDigestStep)
	case from >= end || from < state.GetStart() || end > known:
		return status.Errorf(codes.OutOfRange, "%d to %d: this replica holds %d to %d, committed and durable", from, end, state.GetStart(), known)
	case (end-from)/step >= maxDigests:
		return status.Errorf(codes.InvalidArgument, "%d ranges: at most %d are possible, use longer ones", (end-from)/step+1, maxDigests)
	}
	reader, err := m.node.openReader()
	if err != nil {
		return status.Errorf(codes.Unavailable, "%v", err)
	}
	defer reader.Close()
	buffer := make([]byte, digestBuffer)
	for at := from; at < end; {
		limit := min(at+step, end)
		digest := &proto.RangeDigest{From: at, End: limit}
		hash := sha256.New()
		for at < limit {
			n, err := reader.ReadAt(buffer, smr.LSN(at), smr.LSN(limit))
			switch {
			case errors.Is(err, log.ErrTrimmed):
				return status.Errorf(codes.OutOfRange, "trimmed meanwhile: %v", err)
			case err != nil:
				return status.Errorf(codes.DataLoss, "%v", err)
			}
			hash.Write(buffer[:n])
			at += uint64(n)
		}
		digest.Sha256 = hash.Sum(nil)
		if err := out.Send(digest); err != nil {
			return err
		}
	}
	return nil
}
