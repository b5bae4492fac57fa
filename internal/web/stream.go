package web

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"time"

	"google.golang.org/grpc"

	"lockstep/internal/trust"
	"lockstep/proto"
)

const (
	// streamEvery is how often a browser is sent the state.
	streamEvery = time.Second
	// streamPatience bounds how long a browser may take to take it.
	streamPatience = 10 * time.Second
	// streamLife is how long one stream lasts; the browser opens another one then, so that what a proxy has forgotten is given up.
	streamLife = 10 * time.Minute
	// eventsQueue bounds the events that wait for one browser. Full: events wait at the configuration master, which cuts the stream off
	// when there are too many; the browser comes again and reads the history.
	eventsQueue = 64
)

// eventView is an event as it happens.
type eventView struct {
	ID     uint64 `json:"id"` // 0: observed, not decided
	TimeMs int64  `json:"time_ms"`
	Group  string `json:"group"`
	Name   string `json:"name"`
	Node   string `json:"node"`
	Epoch  uint64 `json:"epoch"`
	Text   string `json:"text"`
}

// follower takes events as a stream of gRPC would.
type follower struct {
	grpc.ServerStream
	ctx    context.Context
	events chan<- *proto.Event
}

func (f *follower) Context() context.Context { return f.ctx }

// Send implements grpc.ServerStreamingServer.
func (f *follower) Send(e *proto.Event) error {
	select {
	case f.events <- e:
		return nil
	case <-f.ctx.Done():
		return f.ctx.Err()
	}
}

// stream sends the state every second, and events.
func (s *Server) stream(w http.ResponseWriter, r *http.Request) {
	select {
	case s.streams <- struct{}{}:
		defer func() { <-s.streams }()
	default:
		fail(w, http.StatusServiceUnavailable, "many browsers follow this page now: it asks now and then instead")
		return
	}
	ctx, cancel := context.WithTimeout(trust.WithCaller(r.Context(), s.caller(r)), streamLife)
	control := http.NewResponseController(w)
	if err := control.SetReadDeadline(time.Time{}); err != nil { // the request has been read; its connection is watched for its end
		cancel()
		fail(w, http.StatusInternalServerError, err.Error())
		return
	}
	w.Header().Set("Content-Type", "text/event-stream")
	w.Header().Set("X-Accel-Buffering", "no") // proxies are not to gather it

	events, ended := make(chan *proto.Event, eventsQueue), make(chan struct{})
	go func() {
		defer close(ended)
		_ = s.config.Masters.Events(&proto.EventsRequest{}, &follower{ctx: ctx, events: events}) // that it ends, for whatever reason, ends the stream
	}()
	defer func() { cancel(); <-ended }()
	ticker := time.NewTicker(streamEvery)
	defer ticker.Stop()
	send := func(name string, value any) error {
		content, err := json.Marshal(value)
		if err != nil {
			return err
		}
		if err := control.SetWriteDeadline(time.Now().Add(streamPatience)); err != nil {
			return err
		}
		if _, err := fmt.Fprintf(w, "event: %s\ndata: %s\n\n", name, content); err != nil { // JSON has no line breaks
			return err
		}
		return control.Flush()
	}
	for {
		if s.sendState(ctx, send) != nil {
			return
		}
		for waiting := true; waiting; {
			select {
			case <-ticker.C:
				waiting = false
			case e := <-events:
				if send("happened", eventView{e.GetId(), e.GetTimeMs(), e.GetGroup(), e.GetName(), e.GetNode(), e.GetEpoch(), e.GetText()}) != nil {
					return
				}
			case <-ended:
				return
			case <-ctx.Done():
				return
			}
		}
	}
}

// sendState sends the state, or why it is not known.
func (s *Server) sendState(ctx context.Context, send func(name string, value any) error) error {
	call, cancel := context.WithTimeout(ctx, lookPatience)
	defer cancel()
	now, err := s.now(call)
	if err == nil {
		return send("state", now)
	}
	if errors.Is(ctx.Err(), context.Canceled) {
		return ctx.Err()
	}
	return send("silence", problem{said(err)})
}
