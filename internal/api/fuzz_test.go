package api_test

import (
	"mime"
	"net/http/httptest"
	"net/url"
	"strings"
	"testing"

	"github.com/dayfly-run/dayfly"
	"github.com/dayfly-run/dayfly/fault"
	"github.com/dayfly-run/dayfly/internal/api"
	"github.com/dayfly-run/dayfly/internal/wire"
)

// FuzzSubmit sends any body to POST /v1/jobs: it is accepted or refused as a problem, and never fails inside.
func FuzzSubmit(f *testing.F) {
	for _, seed := range []string{`{"command":["true"]}`, `{"command":["a"],"inputs":[{"name":"x","content_type":"a/b"}],"payload":{"a":1}}`, `{"command":null}`, `[`, `{"a":1,"a":2}`, ``} {
		f.Add(seed, "application/json", "key")
	}
	f.Add(`{"command":["true"]}`, "text/plain; charset=\"", "a b")
	g := newRig(f)
	f.Fuzz(func(t *testing.T, body, contentType, key string) {
		r := httptest.NewRequest("POST", "/v1/jobs", strings.NewReader(body))
		r.Host = "localhost"
		r.Header["Content-Type"], r.Header["Idempotency-Key"] = []string{contentType}, []string{key}
		w := httptest.NewRecorder()
		g.api.Handler().ServeHTTP(w, r)
		switch w.Code {
		case 201, 200:
		case 400, 409, 413, 415, 422:
			answer{w.Code, w.Header(), w.Body.Bytes()}.problem(t)
		default:
			t.Errorf("got %d: %s", w.Code, w.Body)
		}
	})
}

// FuzzBatch sends any body to POST /agent/v1/batch.
func FuzzBatch(f *testing.F) {
	g := newRig(f)
	session := g.key.Session("att_1", 1)
	f.Add(`{"calls":[{"attempt":"att_1","token":"` + session + `","log":{"stream":"stdout","offset":0,"data":"aGk="}}]}`)
	f.Add(`{"calls":[{"attempt":"att_1","token":"` + session + `","result":{"outcome":"succeeded"}},{}]}`)
	f.Add(`{"calls":[{"claim":{}}]}`)
	f.Add(`{"calls":[null]}`)
	f.Fuzz(func(t *testing.T, body string) {
		r := httptest.NewRequest("POST", "/agent/v1/batch", strings.NewReader(body))
		r.Host = "localhost"
		w := httptest.NewRecorder()
		g.api.Handler().ServeHTTP(w, r)
		if w.Code != 200 && w.Code != 400 && w.Code != 413 && w.Code != 422 {
			t.Errorf("got %d: %s", w.Code, w.Body)
		}
	})
}

// FuzzQuery sends any query to the lists: they answer or say what is wrong.
func FuzzQuery(f *testing.F) {
	for _, seed := range []string{"limit=1&state=queued&label=a%3Db", "cursor=AAAA", "limit=-1", "state=&state=x", "label==", "%", "a=b;c=d", "timeout=1e9", "all=true"} {
		f.Add(seed)
	}
	g := newRig(f)
	g.engine.addJob("job_a", dayfly.Succeeded, "att_1")
	f.Fuzz(func(t *testing.T, query string) {
		for _, path := range []string{"/v1/jobs", "/v1/machines", "/v1/tokens", "/v1/jobs/job_a/logs", "/v1/jobs/job_a/events", "/v1/jobs/job_a/wait"} {
			r := httptest.NewRequest("GET", path, nil)
			r.URL.RawQuery, r.Host = query, "localhost"
			w := httptest.NewRecorder()
			g.api.Handler().ServeHTTP(w, r)
			if w.Code == 200 || w.Code == 404 && strings.HasSuffix(path, "logs") {
				continue
			}
			if w.Code != 422 {
				t.Errorf("%s?%s: got %d: %s", path, query, w.Code, w.Body)
			}
			answer{w.Code, w.Header(), w.Body.Bytes()}.problem(t)
		}
	})
}

// FuzzCursor checks that what opens is what was sealed.
func FuzzCursor(f *testing.F) {
	f.Add("jobs", "state=queued", "42", "")
	f.Add("machines", "", "dayfly-abc", "AAAAAAA")
	f.Fuzz(func(t *testing.T, list, filters, place, text string) {
		if got, err := api.OpenCursor(list, filters, api.SealCursor(list, filters, place)); place != "" && (err != nil || got != place) {
			t.Errorf("sealed %q and opened %q, %v", place, got, err)
		}
		got, err := api.OpenCursor(list, filters, text)
		if err == nil && text != "" && api.SealCursor(list, filters, got) != text {
			t.Errorf("%q opens as %q, which seals as %q", text, got, api.SealCursor(list, filters, got))
		}
	})
}

// FuzzLastEventID checks that a place that is accepted is written as it was read.
func FuzzLastEventID(f *testing.F) {
	for _, seed := range []string{"1:0", "2:123456", "", "end", "0:1", "1:-1", "+1:1", "1:1:1", "99999999999999999999:1"} {
		f.Add(seed)
	}
	f.Fuzz(func(t *testing.T, id string) {
		p, err := api.ParsePlace(id)
		if err != nil {
			if fault.Of(err) != fault.Invalid {
				t.Errorf("%q: %v is not fault.Invalid", id, err)
			}
			return
		}
		if id != "" && id != "end" && p.String() != id {
			t.Errorf("%q is read as %v", id, p)
		}
	})
}

// FuzzChunkQuery checks the query of a chunk of output.
func FuzzChunkQuery(f *testing.F) {
	f.Add("stream=stdout&offset=0&time_ms=1700000000000")
	f.Add("stream=stderr&offset=5&gap=7&why=lost+it")
	f.Add("offset=99999999999999999999")
	f.Add("%zz")
	f.Fuzz(func(t *testing.T, query string) {
		c, err := api.ParseChunk(query)
		if err != nil {
			if fault.Of(err) != fault.Invalid {
				t.Errorf("%q: %v is not fault.Invalid", query, err)
			}
			return
		}
		values, err := url.ParseQuery(query)
		if err != nil || c.Stream != wire.Stream(values.Get("stream")) || c.Why != values.Get("why") {
			t.Errorf("%q is read as %+v, %v", query, c, err)
		}
	})
}

// FuzzDisposition checks that no file name gets out of its header.
func FuzzDisposition(f *testing.F) {
	for _, seed := range []string{"a.txt", "a\"\r\nSet-Cookie: x", "ü/ä", "..", "\\", "a;b=c", "\u202e", "\xff"} {
		f.Add(seed)
	}
	f.Fuzz(func(t *testing.T, name string) {
		header := api.Disposition(name)
		if strings.ContainsFunc(header, func(c rune) bool { return c < ' ' || c > '~' }) {
			t.Fatalf("%q makes the header %q", name, header)
		}
		kind, params, err := mime.ParseMediaType(header)
		if err != nil || kind != "attachment" || strings.ContainsAny(params["filename"], "/\\\r\n") {
			t.Errorf("%q makes the header %q, which reads as %q %v, %v", name, header, kind, params, err)
		}
		for parameter := range params {
			if parameter != "filename" {
				t.Errorf("%q makes the header %q with a parameter %q", name, header, parameter)
			}
		}
	})
}
