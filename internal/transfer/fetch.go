package transfer

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"path/filepath"
	"strings"
	"time"

	"golang.org/x/time/rate"
	"google.golang.org/grpc"
	"google.golang.org/grpc/backoff"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"lockstep/internal/checkpoint"
	"lockstep/internal/pause"
	"lockstep/internal/trust"
	"lockstep/proto"
	"lockstep/smr"
)

const (
	// callPatience bounds a short call to a source.
	callPatience = 10 * time.Second
	// checkpointPatience bounds how long a source may take to make an image that it does not have yet.
	checkpointPatience = 10 * time.Minute
	// maxManifest bounds image.json, in bytes.
	maxManifest = 64 << 20
	// defaultPause and defaultSilence are the defaults of Options.
	defaultPause   = time.Second
	defaultSilence = 10 * time.Second
)

// ErrNoSpace: the disk cannot hold the image.
var ErrNoSpace = errors.New("not enough free disk space")

// Peer is a KV node that may have an image.
type Peer struct {
	Node    smr.NodeID
	Address string // of its management port
}

// Options says what is fetched, and where to.
type Options struct {
	Cluster, Group string
	Node           smr.NodeID // who fetches
	Images         string     // directory of the images
	Incoming       string     // directory for what is not complete, on the same file system
	AtLeast        smr.LSN    // an older image is of no use; a source that has none so new is asked to take one
	BytesPerSecond int64      // 0 is no bound, others are at least 64 KiB
	Rounds         int        // how often all sources are tried; 0 is until the context ends
	Pause          time.Duration
	Silence        time.Duration // after which a source that sends nothing is given up; 0 is 10 s
	Meter          *Meter        // shows how far it is; it must not be nil
	Logger         *slog.Logger  // nil is none
	Dial           []grpc.DialOption
	Keeper         *trust.Keeper // own certificate; nil: sources speak without TLS
}

func (o Options) withDefaults() Options {
	if o.Pause == 0 {
		o.Pause = defaultPause
	}
	if o.Silence == 0 {
		o.Silence = defaultSilence
	}
	if o.Logger == nil {
		o.Logger = slog.New(slog.DiscardHandler)
	}
	return o
}

// Fetch brings an image from the first of the sources that can send one, and returns its manifest; it is then in
// o.Images, under its name. An image that is there already and is what the source offers is not fetched
// again. Errors: that of the context, checkpoint.ErrForeign, ErrNoSpace, or what went wrong at each source in the last round.
func Fetch(ctx context.Context, sources []Peer, o Options) (*checkpoint.Manifest, error) {
	o = o.withDefaults()
	if len(sources) == 0 {
		return nil, errors.New("fetch an image: no node is known that may have one")
	}
	if o.BytesPerSecond < 0 || o.BytesPerSecond > 0 && o.BytesPerSecond < MinRate {
		return nil, fmt.Errorf("fetch an image with %d bytes a second: use at least %d, or 0 for no bound", o.BytesPerSecond, MinRate)
	}
	limiter, _ := limiterOf(o.BytesPerSecond)
	if limiter != nil {
		limiter.SetBurst(max(limiter.Burst(), maxChunk)) // chunks come as the source cuts them
	}
	for round := 1; ; round++ {
		var problems []string
		for _, source := range sources {
			manifest, err := fetchFrom(ctx, source, o, limiter)
			o.Meter.end(err == nil)
			if err == nil {
				o.Logger.Info("image fetched", "source", string(source.Node), "lsn", uint64(manifest.LSN), "bytes", manifest.Bytes)
				return manifest, nil
			}
			if ctx.Err() != nil {
				return nil, fmt.Errorf("fetch an image: %w", ctx.Err())
			}
			err = fmt.Errorf("fetch an image from node %s at %s: %w", source.Node, source.Address, err)
			o.Meter.fail(err)
			o.Logger.Warn("image not fetched", "source", string(source.Node), "address", source.Address, "round", round, "error", err.Error())
			if errors.Is(err, checkpoint.ErrForeign) || errors.Is(err, ErrNoSpace) {
				return nil, err
			}
			problems = append(problems, err.Error())
		}
		if round == o.Rounds {
			return nil, errors.New(strings.Join(problems, "; "))
		}
		if !pause.For(ctx, o.Pause) {
			return nil, fmt.Errorf("fetch an image: %w", ctx.Err())
		}
	}
}

// fetchFrom tries one source.
func fetchFrom(ctx context.Context, source Peer, o Options, limiter *rate.Limiter) (*checkpoint.Manifest, error) {
	options := append([]grpc.DialOption{
		grpc.WithTransportCredentials(o.Keeper.Credentials(trust.Wanted{Role: trust.KVNode, Name: string(source.Node)})),
		grpc.WithDefaultCallOptions(grpc.MaxCallRecvMsgSize(maxManifest + maxChunk)),
		grpc.WithConnectParams(grpc.ConnectParams{
			Backoff: backoff.Config{BaseDelay: 100 * time.Millisecond, Multiplier: 1.5, MaxDelay: time.Second}, MinConnectTimeout: callPatience,
		}),
	}, o.Dial...)
	conn, err := grpc.NewClient("passthrough:///"+source.Address, options...)
	if err != nil {
		return nil, err
	}
	defer conn.Close()
	client := proto.NewKVNodeClient(conn)
	held, err := hold(ctx, client, source, o)
	if err != nil {
		return nil, err
	}
	defer func() {
		ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), callPatience)
		defer cancel()
		_, _ = client.Release(ctx, &proto.ReleaseRequest{Lease: held.GetLease()}) // if it is not heard, the lease runs out
	}()
	manifest, err := checkManifest(held.GetManifest(), o)
	if err != nil {
		return manifest, err
	}
	if found, err := checkpoint.Verify(imageDir(o.Images, manifest.LSN)); err == nil && sameState(found, manifest) {
		return found, removeIncoming(o.Incoming)
	}
	o.Meter.begin(manifest.LSN, manifest.Bytes)
	o.Meter.from(string(source.Node))
	r := receiver{o: o, client: client, lease: held.GetLease(), limiter: limiter, manifest: manifest, raw: held.GetManifest()}
	return manifest, r.receive(ctx)
}

// hold borrows an image. A source that has none that is new enough is asked to take one.
func hold(ctx context.Context, client proto.KVNodeClient, source Peer, o Options) (*proto.HoldReply, error) {
	target := &proto.Target{Cluster: o.Cluster, Group: o.Group, Node: string(source.Node)}
	request := &proto.HoldRequest{Target: target, Borrower: string(o.Node), AtLeast: uint64(o.AtLeast)}
	once := func() (*proto.HoldReply, error) {
		ctx, cancel := context.WithTimeout(ctx, callPatience)
		defer cancel()
		return client.Hold(ctx, request)
	}
	reply, err := once()
	if status.Code(err) == codes.NotFound {
		o.Logger.Info("image asked for", "source", string(source.Node), "lsn", uint64(o.AtLeast), "reason", status.Convert(err).Message())
		ctx, cancel := context.WithTimeout(ctx, checkpointPatience)
		_, err = client.Checkpoint(ctx, &proto.CheckpointRequest{Target: target})
		cancel()
		if err == nil {
			reply, err = once()
		}
	}
	if err != nil {
		return nil, errors.New(status.Convert(err).Message())
	}
	return reply, nil
}

// checkManifest decodes what a source says its image is: bytes from outside.
func checkManifest(raw []byte, o Options) (*checkpoint.Manifest, error) {
	if len(raw) > maxManifest {
		return nil, fmt.Errorf("a manifest of %d bytes: at most %d are taken", len(raw), maxManifest)
	}
	manifest, err := checkpoint.ParseManifest(raw)
	if err != nil {
		return nil, err
	}
	if err := manifest.Of(o.Cluster, o.Group); err != nil {
		return nil, err
	}
	if manifest.LSN < o.AtLeast {
		return nil, fmt.Errorf("the image is of LSN %d and has to be of %d at least", manifest.LSN, o.AtLeast)
	}
	for _, file := range manifest.Files {
		if err := checkName(file.Name); err != nil {
			return nil, err
		}
	}
	return manifest, nil
}

// checkName refuses names that are not those of plain files in a directory of their own.
func checkName(name string) error {
	if name == "" || len(name) > 200 || strings.HasPrefix(name, ".") || strings.HasSuffix(name, partSuffix) ||
		strings.ContainsAny(name, "/\\\x00") || filepath.Base(name) != name {
		return fmt.Errorf("the manifest names a file %q: that is no name of a file of an image", name)
	}
	return nil
}

// sameState reports whether two images hold the same state. Their files may be others.
func sameState(a, b *checkpoint.Manifest) bool {
	return a.LSN == b.LSN && a.Cluster == b.Cluster && a.Group == b.Group && a.Digest == b.Digest
}

// imageDir is where an image of that LSN is.
func imageDir(images string, lsn smr.LSN) string { return filepath.Join(images, checkpoint.Name(lsn)) }
