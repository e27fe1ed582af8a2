package api

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"os"
	"path"
	"strconv"
	"strings"
	"time"
	"unicode"

	"github.com/dayfly-run/dayfly"
	"github.com/dayfly-run/dayfly/blob"
	"github.com/dayfly-run/dayfly/fault"
	"github.com/dayfly-run/dayfly/internal/engine"
	"github.com/dayfly-run/dayfly/internal/store"
	"github.com/dayfly-run/dayfly/internal/ticket"
)

// addBlobs adds the routes of signed URLs. They are plain handlers, because bytes go through them as they are.
func (a *API) addBlobs() {
	a.router.HandleFunc("PUT /v1/blobs/{key...}", a.answering(a.putBlob))
	a.router.HandleFunc("GET /v1/blobs/{key...}", a.answering(a.getBlob))
}

// answering makes a handler of a function that answers itself unless it returns an error.
func (a *API) answering(handle func(http.ResponseWriter, *http.Request) error) http.HandlerFunc {
	return func(w http.ResponseWriter, r *http.Request) {
		if err := handle(w, r); err != nil {
			a.refuse(w, r, err)
		}
	}
}

// patience is how long one piece of a file may take in either direction. It is renewed with every piece, so files may
// take as long as they like, but not stand still.
const (
	patience  = time.Minute
	sendPiece = 256 << 10
)

// storedFile answers an upload.
type storedFile struct {
	Size   int64  `json:"size"`
	SHA256 string `json:"sha256"`
}

func (a *API) putBlob(w http.ResponseWriter, r *http.Request) error {
	key := r.PathValue("key")
	file, err := a.key.CheckFile(http.MethodPut, key, r.URL.Query(), a.now())
	if err != nil {
		return err
	}
	if file.Limit > 0 && r.ContentLength > file.Limit {
		return tooLarge(file.Limit)
	}
	if err := wantWhole(r); err != nil {
		return err
	}
	contentType := r.Header.Get("Content-Type")
	if file.ContentType != "" && contentType != file.ContentType {
		return &withStatus{fault.Field("Content-Type", "must be exactly %s, not %.100q", file.ContentType, contentType), http.StatusUnsupportedMediaType}
	}
	if contentType != "" && !engine.IsContentType(contentType) {
		return fault.Field("Content-Type", "%.100q is not a content type", contentType)
	}
	target, err := a.targetOf(r.Context(), key)
	if err != nil {
		return err
	}
	release, err := a.uploads.take("uploads")
	if err != nil {
		return err
	}
	defer release()
	body := &patientReader{body: r.Body, connection: http.NewResponseController(w)}
	options := &blob.PutOptions{ContentType: contentType, Limit: file.Limit, Size: max(0, r.ContentLength)}
	info, err := a.keep(r.Context(), target, body, options)
	if err != nil {
		return storeAway(uploadError(err, body.err, file.Limit))
	}
	a.measures.received(info.Size)
	w.Header().Set("ETag", etag(info))
	w.Header().Set("Content-Type", "application/json")
	w.WriteHeader(http.StatusCreated)
	_ = marshal(w, storedFile{info.Size, info.SHA256}) // the client may be gone, which is its own affair
	return nil
}

// uploadError tells what went wrong with the client's side of an upload from what went wrong with ours.
func uploadError(err, readErr error, limit int64) error {
	switch {
	case fault.Of(err) == fault.TooLarge:
		return tooLarge(limit)
	case errors.Is(readErr, os.ErrDeadlineExceeded):
		return &withStatus{fault.Say(fault.Canceled, "nothing came for %v; the upload was discarded; begin it again", patience), http.StatusRequestTimeout}
	case readErr != nil && !errors.Is(readErr, io.EOF):
		return &withStatus{fmt.Errorf("%w: %w", fault.Say(fault.Canceled, "the upload broke off and was discarded; begin it again"), readErr), http.StatusBadRequest}
	}
	return err
}

// storeAway says of an error that the place where files are kept cannot be used, if that is so. What it says of itself goes
// to the log.
func storeAway(err error) error {
	if _, said := fault.Sentence(err); said || fault.Of(err) != fault.Unavailable {
		return err
	}
	return fmt.Errorf("%w: %w", fault.Say(fault.Unavailable, "the place where files are kept does not answer or refuses the server; "+
		"its operator finds the reason in its log and with dayfly doctor"), err)
}

// target is what an uploaded file is for: an input of a job, or an artifact of an attempt.
type target struct {
	key        string // where it is kept
	job, input string
	attempt    string
}

// targetOf refuses uploads that nothing waits for any more: inputs of a job that was started, and artifacts of an
// attempt that is over, which nobody may change after they were accepted.
func (a *API) targetOf(ctx context.Context, key string) (*target, error) {
	kind, rest, _ := strings.Cut(key, "/")
	id, name, _ := strings.Cut(rest, "/")
	job, err := a.engine.Job(ctx, id)
	if err != nil {
		return nil, ofJob(id, err)
	}
	if kind == "inputs" {
		switch {
		case job.State.Terminal():
			return nil, fault.Say(fault.Conflict, "job %s is %s; its inputs cannot be changed", id, job.State)
		case job.State != dayfly.Created:
			return nil, fault.Say(fault.Conflict, "job %s has been started; its inputs cannot be changed", id)
		}
		return &target{key: ticket.NewUploadKey(id), job: id, input: name}, nil
	}
	attempt, _, _ := strings.Cut(name, "/")
	for _, at := range job.AttemptLog {
		if at.ID == attempt && !at.State.Terminal() {
			return &target{key: key, job: id, attempt: attempt}, nil
		}
	}
	return nil, fault.Say(fault.StaleAttempt, "attempt %.128s is over; its artifacts cannot be changed", attempt)
}

// wantWhole refuses an upload of a part, which would be taken for the whole, as RFC 9110 says it must be refused; and one
// that is encoded.
func wantWhole(r *http.Request) error {
	if r.Header.Get("Content-Range") != "" {
		return &withStatus{fault.Field("Content-Range", "is not possible here: send the whole file in one request"), http.StatusBadRequest}
	}
	return wantPlain(r)
}

// keep stores a file. Whether it still may be stored is asked again when all of it has come, which may be hours later:
// an input has a key of its own until the engine has recorded it, and an artifact waits for its last byte.
func (a *API) keep(ctx context.Context, t *target, body io.Reader, options *blob.PutOptions) (*blob.Info, error) {
	if t.attempt != "" {
		gate := &gate{Reader: body, open: func() (func(), error) { return a.engine.KeepArtifact(ctx, t.attempt) }}
		defer gate.close()
		return a.blobs.Put(ctx, t.key, gate, options)
	}
	info, err := a.blobs.Put(ctx, t.key, body, options)
	if err != nil {
		return nil, err
	}
	in := store.Input{Name: t.input, ContentType: info.ContentType, Size: info.Size, SHA256: info.SHA256, Blob: t.key}
	return info, ofJob(t.job, a.engine.InputStored(ctx, t.job, in))
}

// gate lets the end of a file through only when it opens. It stays open until it is closed.
type gate struct {
	io.Reader
	open func() (done func(), err error)
	done func()
}

func (g *gate) Read(b []byte) (int, error) {
	n, err := g.Reader.Read(b)
	if errors.Is(err, io.EOF) && g.done == nil {
		done, refusal := g.open()
		if refusal != nil {
			return n, refusal
		}
		g.done = done
	}
	return n, err
}

func (g *gate) close() {
	if g.done != nil {
		g.done()
	}
}

// patientReader gives each read its time.
type patientReader struct {
	body       io.Reader
	connection *http.ResponseController
	err        error // the last one
}

func (p *patientReader) Read(b []byte) (n int, err error) {
	p.connection.SetReadDeadline(time.Now().Add(patience)) // where there is none, the server's own limits hold
	if n, p.err = p.body.Read(b); errors.Is(p.err, io.EOF) {
		// The deadline must not outlive the body: the server goes on reading, to learn that the client has gone.
		p.connection.SetReadDeadline(time.Time{})
	}
	return n, p.err
}

func (a *API) getBlob(w http.ResponseWriter, r *http.Request) error {
	key := r.PathValue("key")
	file, err := a.key.CheckFile(http.MethodGet, key, r.URL.Query(), a.now())
	if err != nil {
		return err
	}
	info, err := a.blobs.Stat(r.Context(), key)
	if fault.Of(err) == fault.NotFound {
		return fault.Say(fault.NotFound, "this file is not there: it was never stored, or has been deleted")
	}
	if err != nil {
		return storeAway(err)
	}
	header := w.Header()
	header.Set("ETag", etag(info))
	header.Set("Last-Modified", info.StoredAt.UTC().Format(http.TimeFormat))
	header.Set("Accept-Ranges", "bytes")
	header.Set("Cache-Control", "private, no-transform")
	// Whatever the file is, a browser must neither guess nor show nor run it as a part of this server.
	header.Set("Content-Security-Policy", "sandbox; default-src 'none'")
	header.Set("Cross-Origin-Resource-Policy", "same-origin")
	header.Set("Content-Disposition", disposition(file.Name))
	if matches(r.Header.Get("If-None-Match"), info) {
		w.WriteHeader(http.StatusNotModified)
		return nil
	}
	if a.direct != nil && r.Method == http.MethodGet && !file.Here {
		return a.redirect(w, r, key, file.Name, info)
	}
	header.Set("Content-Type", info.ContentType)
	if info.ContentType == "" {
		header.Set("Content-Type", "application/octet-stream")
	}
	part, partial, err := rangeOf(r, info)
	if err != nil {
		header.Set("Content-Range", fmt.Sprintf("bytes */%d", info.Size))
		return err
	}
	status := http.StatusOK
	if partial {
		status = http.StatusPartialContent
		header.Set("Content-Range", fmt.Sprintf("bytes %d-%d/%d", part.offset, part.offset+part.length-1, info.Size))
	}
	header.Set("Content-Length", strconv.FormatInt(part.length, 10))
	if r.Method == http.MethodHead {
		w.WriteHeader(status)
		return nil
	}
	return a.send(w, r, key, part, status)
}

// redirectLife is how long a download may be begun after it was sent to the store. Whoever comes later, to go on where it
// broke off, asks here again and is sent anew.
const redirectLife = 15 * time.Minute

// redirect sends a download to the store itself, which answers ranges too.
func (a *API) redirect(w http.ResponseWriter, r *http.Request, key, name string, info *blob.Info) error {
	signed, err := a.direct.Sign(r.Context(), http.MethodGet, key, &blob.SignOptions{
		Life: redirectLife, ContentType: cmp.Or(info.ContentType, "application/octet-stream"), ContentDisposition: disposition(name),
	})
	if err != nil {
		return err
	}
	w.Header().Set("Location", signed.URL)
	w.Header().Set("Cache-Control", "private, no-store")
	w.WriteHeader(http.StatusTemporaryRedirect)
	return nil
}

// send sends a part of an object, a piece at a time, so that a reader that stands still is noticed.
func (a *API) send(w http.ResponseWriter, r *http.Request, key string, part span, status int) error {
	object, err := a.blobs.Get(r.Context(), key, part.offset, part.length)
	if err != nil {
		w.Header().Del("Content-Length")
		return storeAway(err)
	}
	defer object.Close()
	connection := http.NewResponseController(w)
	defer connection.SetWriteDeadline(time.Time{})
	w.WriteHeader(status)
	for sent := int64(0); sent < part.length; {
		connection.SetWriteDeadline(time.Now().Add(patience))
		n, err := copyPiece(w, object, min(sendPiece, part.length-sent))
		sent += n
		a.measures.sent(n)
		if err != nil || n == 0 {
			// The answer has begun, so all that is left is to break it off where the reader notices.
			panic(http.ErrAbortHandler)
		}
	}
	return nil
}

// piecewise is implemented by objects that can hand a limited part of themselves to a writer without copying.
type piecewise interface {
	WriteNTo(w io.Writer, n int64) (int64, error)
}

func copyPiece(w io.Writer, object io.Reader, n int64) (int64, error) {
	if p, ok := object.(piecewise); ok {
		return p.WriteNTo(w, n)
	}
	return io.Copy(w, io.LimitReader(object, n))
}

func etag(info *blob.Info) string { return `"` + info.SHA256 + `"` }

// matches reports whether a list of entity tags has the object's.
func matches(list string, info *blob.Info) bool {
	for tag := range strings.SplitSeq(list, ",") {
		tag = strings.TrimPrefix(strings.TrimSpace(tag), "W/")
		if tag == "*" || tag == etag(info) {
			return true
		}
	}
	return false
}

// span is a part of an object.
type span struct{ offset, length int64 }

// rangeOf returns the part that a request wants, which is all of it if the request names several or none, or means
// another version. Several ranges in one answer are never needed here and have been used to make servers work hard.
func rangeOf(r *http.Request, info *blob.Info) (part span, partial bool, err error) {
	whole := span{0, info.Size}
	ranges, isBytes := strings.CutPrefix(r.Header.Get("Range"), "bytes=")
	if condition := r.Header.Get("If-Range"); !isBytes || strings.Contains(ranges, ",") || condition != "" && condition != etag(info) {
		return whole, false, nil
	}
	first, last, ok := strings.Cut(strings.TrimSpace(ranges), "-")
	from, errFrom := strconv.ParseUint(first, 10, 63)
	to, errTo := strconv.ParseUint(last, 10, 63)
	switch {
	case !ok || first != "" && errFrom != nil || last != "" && errTo != nil || first == "" && last == "":
		return whole, false, nil // what is not understood is ignored, says RFC 9110
	case first == "":
		from, to = uint64(max(0, info.Size-int64(to))), uint64(info.Size)
	case last == "":
		to = uint64(info.Size)
	case to < from:
		return whole, false, nil
	default:
		to = min(to+1, uint64(info.Size))
	}
	if from >= uint64(info.Size) || first == "" && last == "0" {
		return whole, false, &withStatus{fault.Field("Range", "begins behind the end of the file, which has %d bytes", info.Size), http.StatusRequestedRangeNotSatisfiable}
	}
	return span{int64(from), int64(to - from)}, true, nil
}

// disposition returns the header that makes a browser save a file, under the last part of its name (RFC 6266). The
// name is given twice: in plain ASCII, and exactly.
func disposition(name string) string {
	name = path.Base(strings.ReplaceAll(name, "\\", "/"))
	if name == "." || name == "/" || name == ".." {
		return "attachment"
	}
	plain := strings.Map(func(c rune) rune {
		if c < ' ' || c > '~' || strings.ContainsRune(`"%;`, c) {
			return '_'
		}
		return c
	}, name)
	if plain == name {
		return `attachment; filename="` + plain + `"`
	}
	exact := strings.Map(func(c rune) rune {
		if unicode.IsControl(c) || unicode.Is(unicode.Bidi_Control, c) {
			return '_'
		}
		return c
	}, strings.ToValidUTF8(name, "_"))
	return `attachment; filename="` + plain + `"; filename*=` + encodeExt(exact)
}

// encodeExt encodes a parameter as RFC 8187 says.
func encodeExt(s string) string {
	var b strings.Builder
	b.WriteString("UTF-8''")
	for _, c := range []byte(s) {
		if c < 0x80 && (unicode.IsLetter(rune(c)) || unicode.IsDigit(rune(c)) || strings.IndexByte("!#$&+-.^_`|~", c) >= 0) {
			b.WriteByte(c)
			continue
		}
		fmt.Fprintf(&b, "%%%02X", c)
	}
	return b.String()
}
