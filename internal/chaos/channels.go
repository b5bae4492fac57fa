package chaos

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"net"
	"strings"
	"sync"
	"time"

	"lockstep/internal/pause"
)

// channels that are published to. Their messages are one stream: everybody listens to both.
var channels = []string{"news:a", "news:b"}

// channelKey is the key of publications and subscriptions in the history.
const channelKey = "news"

// endMessage is published when nothing else will be; a listener that has got it has got everything.
const endMessage = "end"

// publish publishes a message of its own.
func (w *worker) publish() Outcome {
	message := fmt.Sprintf("%d.%d", w.id, w.unique.Add(1))
	return w.write(channelKey, Publish, message, []string{"PUBLISH", channels[w.rng.IntN(len(channels))], message})
}

// listen subscribes and takes down what it hears, connection after connection, until ctx ends or the last message has come.
func (w *worker) listen(ctx context.Context) {
	defer w.hangUp()
	for ctx.Err() == nil {
		if !w.connect(ctx, time.Second) {
			continue
		}
		op, err := w.subscribe()
		if err == nil {
			w.hear(ctx, &op)
		} else {
			w.failed(Op{Key: channelKey, Node: w.node, Kind: Hear}, err)
			pause.For(ctx, 20*time.Millisecond)
		}
		w.hangUp()
		if op.Final {
			return
		}
	}
}

// subscribe subscribes to all channels and begins the operation that stands for it.
func (w *worker) subscribe() (Op, error) {
	if err := w.conn.SetWriteDeadline(time.Now().Add(time.Second)); err != nil {
		return Op{}, err
	}
	if _, err := w.conn.Write(appendCommand(nil, append([]string{"SUBSCRIBE"}, channels...)...)); err != nil {
		return Op{}, err
	}
	for confirmed := 0; confirmed < len(channels); {
		reply, err := w.conn.receive()
		if err != nil {
			return Op{}, err
		}
		// What comes before the last confirmation is of some channels only: it does not count.
		if len(reply.Items) == 3 && reply.Items[0].Text == "subscribe" {
			confirmed++
		}
	}
	return w.history.call(Op{Client: w.id, Node: w.node, Key: channelKey, Kind: Hear}), nil
}

// hear takes down messages until the connection ends, ctx does, or the last message has come.
func (w *worker) hear(ctx context.Context, op *Op) {
	defer context.AfterFunc(ctx, func() { w.conn.Close() })()
	var heard strings.Builder
	for !op.Final {
		reply, err := w.conn.receive()
		var late net.Error
		if errors.As(err, &late) && late.Timeout() {
			continue
		}
		if err != nil {
			op.Note = err.Error()
			break
		}
		if len(reply.Items) != 3 || reply.Items[0].Text != "message" {
			op.Note = fmt.Sprintf("a push of kind %q with %d items", reply.Kind, len(reply.Items))
			break
		}
		heard.WriteString("," + reply.Items[2].Text)
		op.Final = reply.Items[2].Text == endMessage
	}
	op.Out, op.Outcome = heard.String(), OK
	w.history.end(*op)
}

// checkChannels holds what was published against what was heard: everywhere the same messages in the same order, which is that of
// real time; nothing twice, nothing that was refused; nothing that was acknowledged is missing between what a connection heard, nor, if it lasted until
// the end, behind it.
func checkChannels(ops []Op) []Violation {
	c := &channelCheck{published: map[string]*Op{}, next: map[string]heardNext{}}
	for i := range ops {
		switch op := &ops[i]; {
		case op.Kind == Publish:
			c.published[op.Arg] = op
			c.publications = append(c.publications, op)
		case op.Kind == Hear && op.Outcome == OK:
			c.hears = append(c.hears, op)
		}
	}
	for _, hear := range c.hears {
		c.checkHear(hear, elements(hear.Out))
	}
	return c.found
}

type channelCheck struct {
	published    map[string]*Op
	publications []*Op
	hears        []*Op
	next         map[string]heardNext // what follows a message, and who heard it so
	found        []Violation
}

type heardNext struct {
	message string
	by      *Op
}

// maxChannelComplaints bounds what is said of one broken order.
const maxChannelComplaints = 20

func (c *channelCheck) complain(rule, format string, args ...any) {
	if len(c.found) < maxChannelComplaints {
		c.found = append(c.found, Violation{Rule: "pub/sub: " + rule, Key: channelKey, Text: fmt.Sprintf(format, args...)})
	}
}

func (c *channelCheck) checkHear(hear *Op, messages []string) {
	at := make(map[string]int)
	for i, message := range messages {
		if first, twice := at[message]; twice {
			c.complain("heard once", "subscription %d on %s heard %s at %d and at %d", hear.ID, hear.Node, message, first, i)
		}
		at[message] = i
		switch op := c.published[message]; {
		case op == nil && message != endMessage:
			c.complain("nothing else", "subscription %d on %s heard %s, which nobody published", hear.ID, hear.Node, message)
		case op != nil && op.Outcome == Refused:
			c.complain("refused is never heard", "subscription %d on %s heard %s, which was answered %q", hear.ID, hear.Node, message, op.Note)
		}
		if i == 0 {
			continue
		}
		before := messages[i-1]
		if other, known := c.next[before]; known && other.message != message {
			c.complain("one order", "after %s subscription %d on %s heard %s, and subscription %d on %s %s", before,
				hear.ID, hear.Node, message, other.by.ID, other.by.Node, other.message)
		} else if !known {
			c.next[before] = heardNext{message, hear}
		}
	}
	c.checkTimes(hear, messages)
	c.checkMissing(hear, messages, at)
}

// checkTimes: a message whose publication had ended before that of another began is heard first.
func (c *channelCheck) checkTimes(hear *Op, messages []string) {
	var earliest *Op // of those behind, the one that ended first
	for i := len(messages) - 1; i >= 0; i-- {
		op := c.published[messages[i]]
		if op == nil {
			continue
		}
		if earliest != nil && earliest.Return < op.Call {
			c.complain("real-time order", "subscription %d on %s heard %s before %s, which was published before", hear.ID, hear.Node, op.Arg, earliest.Arg)
		}
		if op.Outcome == OK && (earliest == nil || op.Return < earliest.Return) {
			earliest = op
		}
	}
}

// checkMissing: what was acknowledged after the subscription began and before something was published that was heard, was heard.
func (c *channelCheck) checkMissing(hear *Op, messages []string, at map[string]int) {
	latest := int64(-1) // when the latest publication that was heard began
	for _, message := range messages {
		if op := c.published[message]; op != nil {
			latest = max(latest, op.Call)
		}
	}
	for _, op := range c.publications {
		_, heard := at[op.Arg]
		if op.Outcome == OK && !heard && op.Call > hear.Call && (op.Return < latest || hear.Final) {
			c.complain("acknowledged is heard", "%s was published on %s by operation %d and acknowledged; subscription %d on %s heard what came later, but not that",
				op.Arg, op.Node, op.ID, hear.ID, hear.Node)
		}
	}
}

// listenAll keeps a subscriber going for each node, until all have heard the last message or ctx ends.
func (l *load) listenAll(ctx context.Context, seed uint64) {
	defer close(l.listened)
	var wait sync.WaitGroup
	for i := range l.nodes() {
		w := &worker{load: l, id: firstListener + i, rng: rand.New(rand.NewPCG(seed, firstListener+uint64(i)))}
		wait.Go(func() { w.listen(ctx) })
	}
	wait.Wait()
}

// endPublishing publishes the last message when all others have ended, and waits until every listener has heard it.
func (l *load) endPublishing(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(ctx, time.Minute)
	defer cancel()
	err := pause.Until(ctx, untilPause, func() error {
		_, err := once(ctx, l.login(), l.nodes()[0].KVAddr, 10*time.Second, "PUBLISH", channels[0], endMessage)
		return err
	})
	if err != nil {
		return fmt.Errorf("publish the last message: %w", err)
	}
	select {
	case <-l.listened:
		return nil
	case <-ctx.Done():
		return errors.New("a subscriber did not hear the last message, which was acknowledged")
	}
}
