package api

import (
	"context"
	"net/http"
	"strconv"

	"github.com/danielgtaylor/huma/v2"

	"github.com/dayfly-run/dayfly"
	"github.com/dayfly-run/dayfly/fault"
)

type eventsInput struct {
	caller
	ID     string `path:"id" maxLength:"128"`
	After  int64  `query:"after" minimum:"0" doc:"Only events with a seq above this."`
	LastID string `header:"Last-Event-ID" maxLength:"20" doc:"Go on behind the event with this id."`
}

// eventPage is how many events are read at a time.
const eventPage = 1000

func (a *API) readEvents(ctx context.Context, in *eventsInput) (*huma.StreamResponse, error) {
	after := in.After
	if in.LastID != "" {
		last, err := strconv.ParseInt(in.LastID, 10, 64)
		if err != nil || last < 0 || strconv.FormatInt(last, 10) != in.LastID {
			return nil, fault.Field("Last-Event-ID", "%.20q is not the id of an event of this stream", in.LastID)
		}
		after = max(after, last)
	}
	job, err := a.engine.Job(ctx, in.ID)
	if err != nil {
		return nil, ofJob(in.ID, err)
	}
	if after > job.Events {
		field := "after"
		if after != in.After {
			field = "Last-Event-ID"
		}
		return nil, fault.Field(field, "%d is no event of job %.128s: its last is %d", after, in.ID, job.Events)
	}
	if !WantsEvents(in.r) || in.r.Method == http.MethodHead {
		events, err := a.engine.Events(ctx, in.ID, after, eventPage)
		if err != nil {
			return nil, ofJob(in.ID, err)
		}
		return &huma.StreamResponse{Body: func(hc huma.Context) {
			hc.SetHeader("Content-Type", "application/json")
			if events == nil {
				events = []*dayfly.Event{}
			}
			_ = marshal(hc.BodyWriter(), events) // the client may be gone, which is its own affair
		}}, nil
	}
	if job.State.Terminal() && after >= job.Events {
		return &huma.StreamResponse{Body: func(huma.Context) { in.w.WriteHeader(http.StatusNoContent) }}, nil
	}
	s, closeStream, err := a.openStream(&in.caller, eventsType)
	if err != nil {
		return nil, err
	}
	return &huma.StreamResponse{Body: func(huma.Context) {
		defer closeStream()
		if err := a.followEvents(ctx, s, in.ID, after); err != nil && fault.Of(err) == fault.Internal {
			a.logger.DebugContext(ctx, "a stream of events ended early", "job", in.ID, "error", err)
		}
	}}, nil
}

// followEvents writes a job's events until the one that ends it.
func (a *API) followEvents(ctx context.Context, s *stream, id string, after int64) error {
	changed, stop := a.engine.Watch(id)
	defer stop()
	for {
		happened := changed()
		events, err := a.engine.Events(ctx, id, after, eventPage)
		if err != nil {
			return err
		}
		for _, e := range events {
			if err := s.event(strconv.FormatInt(e.Seq, 10), "", e); err != nil {
				return err
			}
			if after = e.Seq; e.State.Terminal() {
				return nil
			}
		}
		if len(events) == eventPage {
			continue
		}
		if err := s.await(happened); err != nil {
			return err
		}
	}
}
