package server

import (
	"net/http"
	"net/http/httptest"
	"testing"
)

func TestRequestsThatWaitAreToldWhenTheServerStops(t *testing.T) {
	t.Parallel()
	for _, test := range []struct {
		target string
		accept []string
		want   bool
	}{
		{"/v1/jobs/a/events", []string{"text/event-stream"}, true},
		{"/v1/jobs/a/events", []string{"Text/Event-Stream; q=1"}, true},
		{"/v1/jobs/a/events", []string{"application/json", "text/event-stream"}, true},
		{"/v1/jobs/a/events", []string{"application/json, TEXT/EVENT-STREAM"}, true},
		{"/v1/jobs/a/events", []string{"application/json"}, false},
		{"/v1/jobs/a/logs?follow=1", nil, true},
		{"/v1/jobs/a/logs", nil, false},
		{"/v1/jobs/a/wait", nil, true},
		{"/v1/jobs/a", nil, false},
	} {
		r := httptest.NewRequest(http.MethodGet, test.target, nil)
		r.Header["Accept"] = test.accept
		if got := patient(r); got != test.want {
			t.Errorf("GET %s with Accept %q: got %v, want %v", test.target, test.accept, got, test.want)
		}
	}
}
