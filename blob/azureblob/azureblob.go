// Package azureblob keeps objects in a container of Azure Blob Storage.
//
// An object is a block blob whose SHA-256 is kept in its metadata, as sha256. What is stored is gathered first, in memory
// or in a temporary file, because its checksum is sent before it; the service checks an MD5 of every request's body.
// Blocks of an upload that broke off are not to be seen, and the service forgets them after a week.
//
// A shared access signature binds neither headers nor bytes, so what [Store.Sign] returns is not Bound.
package azureblob

import (
	"context"
	"encoding/base64"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"strings"
	"time"
	"unicode"

	"github.com/Azure/azure-sdk-for-go/sdk/azcore"
	"github.com/Azure/azure-sdk-for-go/sdk/azcore/policy"
	azure "github.com/Azure/azure-sdk-for-go/sdk/storage/azblob/blob"
	"github.com/Azure/azure-sdk-for-go/sdk/storage/azblob/bloberror"
	"github.com/Azure/azure-sdk-for-go/sdk/storage/azblob/container"

	"github.com/dayfly-run/dayfly/blob"
	"github.com/dayfly-run/dayfly/fault"
	"github.com/dayfly-run/dayfly/internal/remoteblob"
)

// Options are the details of a Store. nil means all defaults.
type Options struct {
	// Prefix is what the names of all objects begin with, such as "dayfly/"; a missing slash at its end is added.
	Prefix string
	// Endpoint is the URL of the account's blobs. Default: https://ACCOUNT.blob.core.windows.net.
	Endpoint string
	// PublicEndpoint is the URL by which those reach the service who hold a signed request. Default: Endpoint.
	PublicEndpoint string
	// PartSize is how many bytes each block of a large object has; smaller objects are sent whole. An object has at most
	// 50,000 blocks. Default: 16 MiB; at least 1 MiB.
	PartSize int64
	// SpoolDir is where objects of more than 1 MiB are gathered before they are sent. Default: the system's place for
	// temporary files.
	SpoolDir string
}

// The least and the default size of a block, and how many an object may have.
const (
	minPart     = 1 << 20
	defaultPart = 16 << 20
	maxParts    = 50_000
)

// Store keeps objects in a container. It is safe for concurrent use, by several processes too.
type Store struct {
	account, container, prefix string
	client                     *container.Client
	key                        *container.SharedKeyCredential
	public                     string // the container's URL for those who hold a signed request
	host                       string // of the service, to tell
	options                    Options
	patience                   time.Duration
}

var (
	_ blob.Store  = (*Store)(nil)
	_ blob.Signer = (*Store)(nil)
)

// Open returns the Store in the container of the account, which must exist; key is one of the account's two access keys. It
// asks the service nothing: a container that is not there is noticed by the first use. fault.Invalid if the names, the key
// or the options cannot be right.
func Open(account, containerName, key string, o *Options) (*Store, error) {
	if o == nil {
		o = &Options{}
	}
	s := &Store{account: account, container: containerName, prefix: o.Prefix, options: *o, patience: remoteblob.Patience}
	if s.prefix != "" && !strings.HasSuffix(s.prefix, "/") {
		s.prefix += "/"
	}
	if s.prefix != "" {
		if err := blob.CheckKey(strings.TrimSuffix(s.prefix, "/")); err != nil {
			return nil, fmt.Errorf("azureblob: the prefix: %w", err)
		}
	}
	if s.options.PartSize == 0 {
		s.options.PartSize = defaultPart
	}
	if s.options.PartSize < minPart {
		return nil, fmt.Errorf("azureblob: %w: a part of %d bytes is too small; the least that makes sense is %d", fault.Invalid, o.PartSize, minPart)
	}
	for what, name := range map[string]string{"an account": account, "a container": containerName} {
		if name == "" || strings.ContainsAny(name, "/?#.@:") {
			return nil, fmt.Errorf("azureblob: %w: %q is not the name of %s", fault.Invalid, name, what)
		}
	}
	// The library would put the key into its error.
	if _, err := base64.StdEncoding.DecodeString(key); err != nil || key == "" {
		return nil, fmt.Errorf("azureblob: %w: the access key of account %s is not in base64, as access keys are; copy it whole", fault.Invalid, account)
	}
	return s, s.connect(key)
}

// connect makes the client. Nothing is sent.
func (s *Store) connect(key string) (err error) {
	own := "https://" + s.account + ".blob.core.windows.net"
	endpoint, err := containerURL(s.options.Endpoint, own, s.container)
	if err != nil {
		return err
	}
	s.host = endpoint.Host
	public, err := containerURL(s.options.PublicEndpoint, strings.TrimSuffix(endpoint.String(), "/"+s.container), s.container)
	if err != nil {
		return err
	}
	s.public = public.String()
	if s.key, err = container.NewSharedKeyCredential(s.account, key); err != nil {
		return fmt.Errorf("azureblob: %w: the access key of account %s cannot be used", fault.Invalid, s.account)
	}
	s.client, err = container.NewClientWithSharedKeyCredential(endpoint.String(), s.key, &container.ClientOptions{ClientOptions: azcore.ClientOptions{
		Retry:     policy.RetryOptions{MaxRetries: 3, RetryDelay: 200 * time.Millisecond, MaxRetryDelay: time.Second},
		Telemetry: policy.TelemetryOptions{Disabled: true},
		// What is signed is for this service, and goes nowhere else.
		Transport: &http.Client{Transport: remoteblob.Transport(), CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse }},
	}})
	if err != nil {
		return fmt.Errorf("azureblob: %w: %w", fault.Invalid, err)
	}
	return nil
}

// containerURL returns the URL of the container at an endpoint.
func containerURL(endpoint, otherwise, containerName string) (*url.URL, error) {
	if endpoint == "" {
		endpoint = otherwise
	}
	u, err := url.Parse(endpoint)
	if err != nil || u.Host == "" || u.Scheme != "https" && u.Scheme != "http" || u.User != nil || u.RawQuery != "" {
		return nil, fmt.Errorf("azureblob: %w: the endpoint is not the URL of an account, such as https://ACCOUNT.blob.core.windows.net", fault.Invalid)
	}
	return u.JoinPath(containerName), nil
}

// Close lets go of the store.
func (s *Store) Close() error { return nil }

// String tells where objects are kept, without credentials.
func (s *Store) String() string {
	return "azure://" + s.account + "/" + s.container + "/" + s.prefix + " at " + s.host
}

// Prefix returns what the names of all objects begin with; "" or ending in a slash.
func (s *Store) Prefix() string { return s.prefix }

// What a blob's name may be at most: characters, and parts between slashes.
const (
	maxName     = 1024
	maxSegments = 254
)

// name returns the name in the container of the object with this key. It refuses what the service, or what is on the way to
// it, would take for another name.
func (s *Store) name(key string) (string, error) {
	if err := blob.CheckKey(key); err != nil {
		return "", err
	}
	name := s.prefix + key
	reason := ""
	switch {
	case len(name) > maxName:
		reason = fmt.Sprintf("with the prefix it is longer than %d bytes", maxName)
	case strings.Count(name, "/") >= maxSegments:
		reason = fmt.Sprintf("it has more than %d parts", maxSegments)
	case strings.ContainsFunc(name, unicode.IsControl):
		reason = "it holds a control character"
	case strings.Contains(name, "\\"):
		reason = "it holds a backslash, which Azure takes for a slash"
	case strings.Contains(name+"/", "./"):
		reason = "a part ends in a dot, which Azure takes away"
	}
	if reason != "" {
		return "", fmt.Errorf("azureblob: key %.100q: %w: %s", key, fault.Invalid, reason)
	}
	return name, nil
}

// Get returns a part of an object. The reader goes on reading the object as it was when Get returned.
func (s *Store) Get(ctx context.Context, key string, offset, length int64) (io.ReadCloser, error) {
	name, err := s.name(key)
	if err != nil {
		return nil, err
	}
	if offset < 0 {
		return nil, beyond(key, offset)
	}
	if length == 0 { // for which there is no range
		return s.nothing(ctx, key, offset)
	}
	var o azure.DownloadStreamOptions
	if o.Range.Offset = offset; length > 0 {
		o.Range.Count = min(length, 1<<62-min(offset, 1<<62))
	}
	watched, watch := remoteblob.NewWatch(ctx, s.patience)
	answer, err := s.client.NewBlobClient(name).DownloadStream(watched, &o)
	if err == nil {
		return remoteblob.Body(ctx, answer.Body, watch), nil
	}
	err = watch.Cause(err)
	watch.Stop()
	if refused, ok := errors.AsType[*azcore.ResponseError](err); ok && refused.StatusCode == http.StatusRequestedRangeNotSatisfiable {
		return s.nothing(ctx, key, offset)
	}
	return nil, s.explain(ctx, "get", key, err)
}

// nothing returns no bytes of an object, from within it or its end.
func (s *Store) nothing(ctx context.Context, key string, offset int64) (io.ReadCloser, error) {
	info, err := s.Stat(ctx, key)
	if err != nil {
		return nil, err
	}
	if offset > info.Size {
		return nil, beyond(key, offset)
	}
	return io.NopCloser(strings.NewReader("")), nil
}

func beyond(key string, offset int64) error {
	return fmt.Errorf("azureblob: get %q: %w: offset %d is not within the object", key, fault.Invalid, offset)
}

// Stat returns what is known of an object.
func (s *Store) Stat(ctx context.Context, key string) (*blob.Info, error) {
	name, err := s.name(key)
	if err != nil {
		return nil, err
	}
	known, err := s.client.NewBlobClient(name).GetProperties(ctx, nil)
	if err != nil {
		return nil, s.explain(ctx, "look at", key, err)
	}
	return infoOf(key, known.ContentLength, known.ContentType, known.LastModified, known.Metadata), nil
}

// infoOf makes an Info of what the service says, of which it may leave out anything.
func infoOf(key string, size *int64, contentType *string, at *time.Time, metadata map[string]*string) *blob.Info {
	info := &blob.Info{Key: key, Size: value(size), ContentType: value(contentType), StoredAt: value(at).UTC().Truncate(time.Second)}
	for field, text := range metadata {
		if strings.EqualFold(field, metaSHA256) && isSHA256(value(text)) {
			info.SHA256 = *text
		}
	}
	return info
}

func value[T any](p *T) (v T) {
	if p != nil {
		v = *p
	}
	return v
}

// Delete removes an object.
func (s *Store) Delete(ctx context.Context, key string) error {
	name, err := s.name(key)
	if err != nil {
		return err
	}
	if _, err := s.client.NewBlobClient(name).Delete(ctx, nil); err != nil {
		err = s.explain(ctx, "delete", key, err)
		if fault.Of(err) != fault.NotFound {
			return err
		}
	}
	return nil
}

// explain makes the error of a request: what was tried, a kind, and what to do.
func (s *Store) explain(ctx context.Context, doing, key string, err error) error {
	if ctx.Err() != nil {
		return fmt.Errorf("azureblob: %s %q: %w", doing, key, ctx.Err())
	}
	said := func(kind fault.Kind, story string) error {
		return fmt.Errorf("azureblob: %s %q: %w: %s", doing, key, kind, story)
	}
	answer, ok := errors.AsType[*azcore.ResponseError](err)
	if !ok {
		return said(fault.Unavailable, fmt.Sprintf("%s did not answer: %v", s.host, withoutURL(err)))
	}
	// The library's text has the URL and the whole answer, so only the code is told.
	message := fmt.Sprintf("%s says %.100q with status %d", s.host, answer.ErrorCode, answer.StatusCode)
	switch bloberror.Code(answer.ErrorCode) {
	case bloberror.BlobNotFound, bloberror.ResourceNotFound:
		return said(fault.NotFound, "there is no such object")
	case bloberror.ContainerNotFound, bloberror.ContainerBeingDeleted:
		return said(fault.Unavailable, fmt.Sprintf("there is no container %s at %s; make it, or correct its name", s.container, s.host))
	case bloberror.AuthenticationFailed, bloberror.InvalidAuthenticationInfo, bloberror.AuthorizationFailure:
		return said(fault.Unavailable, message+"; the access key is wrong or has been replaced, the clock of this computer is wrong, or the account's network rules forbid it")
	case bloberror.AuthorizationPermissionMismatch, bloberror.InsufficientAccountPermissions, bloberror.AccountIsDisabled:
		return said(fault.Unavailable, message+"; the account does not permit this")
	case bloberror.RequestBodyTooLarge:
		return said(fault.TooLarge, message)
	case bloberror.InvalidResourceName, bloberror.OutOfRangeInput:
		return said(fault.Invalid, message)
	}
	return said(fault.Unavailable, message)
}

// withoutURL strips the URL from an error of net/http.
func withoutURL(err error) error {
	if e, ok := errors.AsType[*url.Error](err); ok {
		return e.Err
	}
	return err
}
