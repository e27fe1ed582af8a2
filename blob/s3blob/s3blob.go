// Package s3blob keeps objects in a bucket of an S3-compatible service: AWS, Cloudflare R2, MinIO, and others.
//
// It asks for little, so that little can be missing: plain PUT, GET, HEAD, DELETE, ListObjectsV2 and, for large objects,
// multipart uploads. The checksum of every request's body is signed with the request, in the way that all such services
// check since version 4 of the signature; the newer checksum headers, which some of them refuse, are used only in signed
// requests that name a checksum. An object's SHA-256 is kept in its metadata, as x-amz-meta-sha256.
//
// What Sign returns is a presigned URL of version 4 of the signature. What its options say about a PUT is signed as headers,
// so the service refuses a request that does not send exactly the same; Content-Length is one of them. A checksum is sent
// twice: for the service to check, and as the metadata that Stat reads.
//
// What is stored is gathered first, in memory or in a temporary file, because its checksum is sent before it.
//
// A lifecycle rule of the bucket should remove incomplete multipart uploads after some days: a process that is killed
// while it uploads a large object leaves one, which is not to be seen as an object and is paid for.
package s3blob

import (
	"cmp"
	"errors"
	"fmt"
	"net"
	"net/http"
	"net/url"
	"strings"
	"time"
	"unicode"

	"github.com/minio/minio-go/v7"
	"github.com/minio/minio-go/v7/pkg/credentials"

	"github.com/dayfly-run/dayfly/blob"
	"github.com/dayfly-run/dayfly/fault"
	"github.com/dayfly-run/dayfly/internal/remoteblob"
)

// Options are the details of a Store. nil means all defaults: a bucket of AWS, with the credentials that are found.
type Options struct {
	// Prefix is what the names of all objects begin with, such as "dayfly/"; a missing slash at its end is added.
	Prefix string
	// Endpoint is the URL of the service, such as https://ACCOUNT.r2.cloudflarestorage.com or http://127.0.0.1:9000.
	// Default: AWS.
	Endpoint string
	// PublicEndpoint is the URL by which those reach the service who hold a signed request. Default: Endpoint.
	PublicEndpoint string
	// Region is the bucket's. Default: AWS is asked for it, and others are told us-east-1.
	Region string
	// AccessKey, SecretKey and SessionToken are the credentials. Default: what the environment (AWS_ACCESS_KEY_ID and so
	// on), the file ~/.aws/credentials or the role of the machine says, renewed when they expire.
	AccessKey, SecretKey, SessionToken string
	// PathStyle names the bucket in the path of a URL instead of its host. Services at an IP address need it and get it.
	PathStyle bool
	// PartSize is how many bytes each part of a large object has; smaller objects are sent whole. An object has at most
	// 10,000 parts. Default: 32 MiB; at least 5 MiB.
	PartSize int64
	// SpoolDir is where objects of more than 1 MiB are gathered before they are sent. Default: the system's place for
	// temporary files.
	SpoolDir string
	// Patience is how long a transfer may stand still before it is given up. Default: one minute.
	Patience time.Duration
}

// awsEndpoint is where AWS answers for all its regions.
const awsEndpoint = "https://s3.amazonaws.com"

// Store keeps objects in a bucket. It is a [blob.Store] and a [blob.Signer], safe for concurrent use, by several processes
// too.
type Store struct {
	*store
	name string
}

type store = remoteblob.Store

var (
	_ blob.Store  = (*Store)(nil)
	_ blob.Signer = (*Store)(nil)
)

// service is a bucket.
type service struct {
	bucket string
	core   minio.Core
	signer *minio.Client // knows the service by its public name
	host   string        // to tell
}

// Open returns the Store in the bucket, which must exist. It asks the service nothing: a bucket that is not there is
// noticed by the first use. fault.Invalid if the bucket or the options cannot be right.
func Open(bucket string, o *Options) (*Store, error) {
	if o == nil {
		o = &Options{}
	}
	if bucket == "" || strings.ContainsAny(bucket, "/?#") {
		return nil, fmt.Errorf("s3blob: %w: %q is not the name of a bucket", fault.Invalid, bucket)
	}
	client, err := connect(o.Endpoint, o)
	if err != nil {
		return nil, err
	}
	s := &service{bucket: bucket, core: minio.Core{Client: client}, signer: client, host: client.EndpointURL().Host}
	if o.PublicEndpoint != "" {
		if s.signer, err = connect(o.PublicEndpoint, o); err != nil {
			return nil, err
		}
	}
	common, err := remoteblob.New(s, remoteblob.Settings{
		Package: "s3blob", Host: s.host, Prefix: o.Prefix, Refuses: refuses, Explain: s.explain, SpoolDir: o.SpoolDir,
		PartSize: cmp.Or(o.PartSize, 32<<20), MinPart: 5 << 20, MaxParts: 10_000, Patience: o.Patience,
	})
	if err != nil {
		return nil, err
	}
	return &Store{common, "s3://" + bucket + "/" + common.Prefix() + " at " + s.host}, nil
}

// String tells where objects are kept, without credentials.
func (s *Store) String() string { return s.name }

// connect returns a client for the service at an endpoint. Nothing is sent.
func connect(endpoint string, o *Options) (*minio.Client, error) {
	endpoint = cmp.Or(endpoint, awsEndpoint)
	u, err := url.Parse(endpoint)
	if err != nil || u.Host == "" || u.Scheme != "https" && u.Scheme != "http" || u.Path != "" && u.Path != "/" || u.User != nil {
		return nil, fmt.Errorf("s3blob: %w: %.200q is not the URL of a service, such as https://s3.example.com", fault.Invalid, redact(endpoint))
	}
	region := o.Region
	if region == "" && !strings.HasSuffix(u.Hostname(), ".amazonaws.com") {
		region = "us-east-1" // what services without regions call theirs; AWS is asked
	}
	lookup := minio.BucketLookupAuto
	if o.PathStyle || net.ParseIP(u.Hostname()) != nil {
		lookup = minio.BucketLookupPath
	}
	client, err := minio.New(u.Host, &minio.Options{
		Creds: credentialsOf(o), Secure: u.Scheme == "https", Region: region, BucketLookup: lookup,
		MaxRetries: 4, Transport: remoteblob.Transport(o.Patience),
	})
	if err != nil {
		return nil, fmt.Errorf("s3blob: %w: %w", fault.Invalid, err)
	}
	return client, nil
}

// redact removes a password that somebody wrote into a URL.
func redact(endpoint string) string {
	if _, host, found := strings.Cut(endpoint, "@"); found {
		return "[redacted]@" + host
	}
	return endpoint
}

func credentialsOf(o *Options) *credentials.Credentials {
	if o.AccessKey != "" {
		return credentials.NewStaticV4(o.AccessKey, o.SecretKey, o.SessionToken)
	}
	return credentials.NewChainCredentials([]credentials.Provider{
		&credentials.EnvAWS{}, &credentials.FileAWSCredentials{},
		&credentials.IAM{Client: &http.Client{Transport: remoteblob.Transport(0), Timeout: 10 * time.Second}},
	})
}

// refuses says why there can be no object of this name.
func refuses(name string) (reason string) {
	if strings.ContainsFunc(name, unicode.IsControl) {
		return "it holds a control character" // some services accept it, and are then unable to list it
	}
	for part := range strings.SplitSeq(name, "/") {
		if part == "." || part == ".." {
			return fmt.Sprintf("the part %q is taken for a direction on the way", part)
		}
	}
	return ""
}

// explain makes a kind and a sentence of what the service has answered.
func (s *service) explain(err error) (fault.Kind, string) {
	answer, ok := errors.AsType[minio.ErrorResponse](err)
	if !ok {
		return "", ""
	}
	message := fmt.Sprintf("%s says %s: %.200q", s.host, answer.Code, answer.Message)
	switch answer.Code {
	case "NoSuchKey":
		return fault.NotFound, "there is no such object"
	case "NoSuchBucket":
		return fault.Unavailable, fmt.Sprintf("there is no bucket %s at %s; make it, or correct its name", s.bucket, s.host)
	case "RequestTimeTooSkewed":
		return fault.Unavailable, "the clocks of this computer and of " + s.host + " differ by more than the service allows; set the clock"
	case "InvalidAccessKeyId", "SignatureDoesNotMatch", "ExpiredToken", "InvalidToken", "InvalidTokenId", "XAdminUserNotFound":
		return fault.Unavailable, message + "; the credentials are wrong or have been replaced: give new ones"
	case "AccessDenied", "AllAccessDisabled":
		return fault.Unavailable, message + "; the credentials must permit reading, writing, listing and deleting in bucket " + s.bucket
	case "AuthorizationHeaderMalformed", "PermanentRedirect", "InvalidRegion":
		return fault.Unavailable, message + "; the region is not the bucket's"
	case "EntityTooLarge":
		return fault.TooLarge, message
	case "XMinioStorageFull", "QuotaExceeded", "InsufficientStorage":
		return fault.StoreFull, message
	case "ObjectParentIsFile", "ExistingObjectIsDirectory", "XMinioParentIsObject", "XMinioObjectExistsAsDirectory":
		return fault.Invalid, message + "; this service cannot keep an object where others have a folder"
	case "InvalidArgument", "InvalidObjectName", "KeyTooLongError", "XMinioInvalidObjectName":
		if answer.StatusCode == http.StatusBadRequest {
			return fault.Invalid, message
		}
	}
	if answer.StatusCode == http.StatusRequestedRangeNotSatisfiable {
		return fault.Invalid, message
	}
	return fault.Unavailable, message
}
