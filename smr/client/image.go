package client

import (
	"context"
	"fmt"
	"time"

	"lockstep/log"
	"lockstep/smr"
)

// Need says which image is needed.
type Need struct {
	// From is the least LSN that helps.
	From smr.LSN
	// Applied is where the state stands: an image at or below it only tells the replicator where its log can begin.
	Applied smr.LSN
	// Sources are the nodes to ask, in order of preference. Empty: none is known at present, or all are busy.
	Sources []smr.ImageSource
}

// Image is an image of the Machine's state, durable on this node.
type Image struct {
	// Base is that of the log at the image's LSN.
	Base log.Base
	// Load makes the Machine's state that of the image, and returns the highest sequence of the client's own session that it
	// has executed, 0 if none. It is called from the apply loop, between two frames, and only if the image lies above what is
	// applied. An error ends Run, which returns it.
	Load func() (executed uint64, err error)
}

// fetched is what FetchImage has returned.
type fetched struct {
	image Image
	err   error
}

// images is the part of the apply loop that gets an image when the log does not reach it.
type images struct {
	done    chan fetched // 1: FetchImage has returned
	running bool
	again   pause
	notTill time.Time // FetchImage is not called before, unless there are others to ask
	asked   uint64    // the list of sources that it was called with last

	base    *log.Base // of the image loaded or named last
	brought time.Time // when base was last told to the replicator
	said    string    // trouble that was logged
}

// bringEvery is how often the replicator is told of the same image while it still needs one.
const bringEvery = time.Second

// needed returns the least LSN of an image that is needed, 0 if none is.
func needed(status smr.Status, applied smr.LSN) smr.LSN {
	if status.Start > applied {
		return max(status.Start, status.NeedImage)
	}
	return status.NeedImage
}

// seekImage sees to it that an image comes if one is needed. It does not wait for it.
func (a *applyLoop) seekImage(ctx context.Context) {
	c, im := a.client, &a.images
	status, _ := c.view.load()
	applied := c.Applied()
	from := needed(status, applied)
	if from == 0 || c.config.FetchImage == nil || im.running {
		return
	}
	now := time.Now()
	if im.base != nil && im.base.LSN >= from && im.base.LSN <= applied {
		if now.Sub(im.brought) >= bringEvery {
			im.brought = now
			c.bringBase(im.base)
		}
		return
	}
	sources, list := c.view.sources()
	if now.Before(im.notTill) && list == im.asked {
		return
	}
	c.config.Logger.Info("image needed", "group", c.config.Group, "node", string(c.config.Node), "lsn", uint64(applied), "from", uint64(from))
	im.running, im.asked = true, list
	need := Need{From: from, Applied: applied, Sources: sources}
	a.tasks.Go(func() {
		image, err := c.config.FetchImage(ctx, need)
		im.done <- fetched{image, err}
		signal(c.view.statusChanged)
	})
}

// takeImage takes what FetchImage has brought, if it has. An error comes from the Machine.
func (a *applyLoop) takeImage() error {
	im := &a.images
	select {
	case f := <-im.done:
		im.running = false
		return a.useImage(&f)
	default:
		return nil
	}
}

func (a *applyLoop) useImage(f *fetched) error {
	c, im := a.client, &a.images
	status, _ := c.view.load()
	applied := c.Applied()
	logger := c.config.Logger.With("group", c.config.Group, "node", string(c.config.Node))
	if f.err == nil && f.image.Base.LSN < needed(status, applied) {
		f.err = fmt.Errorf("the image is at LSN %d, the log goes on from %d by now", f.image.Base.LSN, needed(status, applied))
	}
	if f.err != nil {
		if text := f.err.Error(); text != im.said {
			logger.Warn("no image", "lsn", uint64(applied), "why", text)
			im.said = text
		}
		im.again.next = min(max(2*im.again.next, im.again.least), im.again.most)
		im.notTill = time.Now().Add(im.again.next)
		return nil
	}
	im.said = ""
	im.again.reset()
	base := f.image.Base
	im.base, im.brought = &base, time.Time{}
	if base.LSN <= applied {
		return nil
	}
	_, where := c.view.load()
	c.applied.doubt(base.LSN, max(where.attachments, 1)) // its stream may have been given up since it was taken
	executed, err := f.image.Load()
	if err != nil {
		return fmt.Errorf("load the image at LSN %d: %w", base.LSN, err)
	}
	a.trail, a.proved = base.Trail(), 0 // the log does not reach it yet
	logger.Info("image loaded", "lsn", uint64(base.LSN), "before", uint64(applied))
	// What was executed below the image has no reply here.
	for _, waiter := range c.owners.skip(executed) {
		waiter.Finish(Uncertain)
	}
	c.applied.advance(base.LSN)
	return nil
}

// bringBase has the local writer tell the replicator where its log can begin.
func (c *Client) bringBase(base *log.Base) {
	encoded, _ := base.AppendBinary(nil) // never fails
	c.base.Store(&encoded)
	signal(c.saved)
}

// SetTransfer tells how far the fetching of an image has come. The replicator passes it on to people. Total 0: none is fetched.
func (c *Client) SetTransfer(transfer smr.Transfer) {
	c.transfer.Store(&transfer)
	signal(c.saved)
}
