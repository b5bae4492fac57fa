package web

import (
	"context"
	"errors"
	"net/http"
	"time"

	"google.golang.org/grpc/status"

	"lockstep/internal/drift"
	"lockstep/internal/trust"
	"lockstep/proto"
)

// maxSettings bounds the settings of one change.
const maxSettings = 20

// done is the answer to a change.
type done struct {
	Text    string `json:"text"`
	Epoch   uint64 `json:"epoch,omitempty"`
	Version uint64 `json:"version,omitempty"`
}

// change serves what alters the cluster: for an operator who is logged in, with the token of the session.
func (s *Server) change(carryOut func(w http.ResponseWriter, r *http.Request) (any, error)) http.HandlerFunc {
	return func(w http.ResponseWriter, r *http.Request) {
		if err := s.mayChange(r); err != nil {
			s.config.Logger.Warn("change at the web page refused", "who", s.caller(r).String(), "path", r.URL.Path, "reason", err.Error())
			failWith(w, err)
			return
		}
		control := http.NewResponseController(w)
		deadline := time.Now().Add(changePatience + 5*time.Second)
		if err := errors.Join(control.SetWriteDeadline(deadline), control.SetReadDeadline(deadline)); err != nil {
			fail(w, http.StatusInternalServerError, err.Error())
			return
		}
		// Whoever begins a change and goes away has begun it: it is not cut off half way.
		ctx, cancel := context.WithTimeout(trust.WithCaller(context.WithoutCancel(r.Context()), s.caller(r)), changePatience)
		defer cancel()
		answer, err := carryOut(w, r.WithContext(ctx))
		if err != nil {
			failWith(w, err)
			return
		}
		show(w, answer)
	}
}

// mayChange refuses whoever may not change anything, and says what to do.
func (s *Server) mayChange(r *http.Request) error {
	if why := s.noLogin(); why != "" {
		return refusef(http.StatusForbidden, "%s", why)
	}
	one, _ := s.sessionOf(r)
	if one == nil {
		return refusef(http.StatusUnauthorized, "log in first: `smrctl web login` gives a code")
	}
	if err := checkToken(r, one); err != nil {
		return err
	}
	if !one.caller.May(trust.Operator) {
		return refusef(http.StatusForbidden, "%s may look only: a change needs the role operator", one.caller.Peer)
	}
	return nil
}

func (s *Server) switchover(w http.ResponseWriter, r *http.Request) (any, error) {
	var request struct {
		Group string `json:"group"`
		To    string `json:"to"` // "": the most suitable one
	}
	if err := read(w, r, &request); err != nil {
		return nil, err
	}
	reply, err := s.config.Masters.Switchover(r.Context(), &proto.SwitchoverRequest{Group: request.Group, To: request.To})
	if err != nil {
		return nil, err
	}
	return &done{Text: reply.GetText(), Epoch: reply.GetEpoch()}, nil
}

func (s *Server) setSettings(w http.ResponseWriter, r *http.Request) (any, error) {
	var request struct {
		Group    string `json:"group"`
		Version  uint64 `json:"version"` // of the settings as the browser saw them
		Forget   bool   `json:"forget"`
		Settings []struct {
			Name  string `json:"name"`
			Value string `json:"value"`
		} `json:"settings"`
	}
	if err := read(w, r, &request); err != nil {
		return nil, err
	}
	if len(request.Settings) < 1 || len(request.Settings) > maxSettings {
		return nil, refusef(http.StatusBadRequest, "%d settings: use 1 to %d", len(request.Settings), maxSettings)
	}
	change := &proto.ChangeSettings{Forget: request.Forget, By: trust.CallerOf(r.Context()).String()}
	for _, one := range request.Settings {
		change.Settings = append(change.Settings, &proto.Setting{Kind: drift.Config, Name: one.Name, Value: one.Value})
	}
	plan, err := s.config.Masters.Change(r.Context(), &proto.ChangeRequest{Group: request.Group, Version: request.Version, Change: &proto.ChangeRequest_Settings{Settings: change}})
	if err != nil {
		return nil, err
	}
	return &done{Text: plan.GetText(), Version: plan.GetVersion()}, nil
}

// said is the text of an error of a management call, or of the page's own.
func said(err error) string {
	var own *refused
	if errors.As(err, &own) {
		return own.text
	}
	return status.Convert(err).Message()
}
