package translator

import (
	"context"
	"errors"
	"fmt"
	"io"
	"maps"
	"path"
	"slices"
	"strings"
	"time"

	"github.com/bufbuild/protocompile"
	"github.com/bufbuild/protocompile/linker"
	"google.golang.org/protobuf/reflect/protodesc"
	"google.golang.org/protobuf/types/descriptorpb"

	// Files that are built in because they are linked in.
	_ "google.golang.org/genproto/googleapis/api/annotations"
	_ "google.golang.org/genproto/googleapis/rpc/errdetails"
	_ "google.golang.org/genproto/googleapis/rpc/status"
	_ "google.golang.org/protobuf/types/known/anypb"
	_ "google.golang.org/protobuf/types/known/apipb"
	_ "google.golang.org/protobuf/types/known/durationpb"
	_ "google.golang.org/protobuf/types/known/emptypb"
	_ "google.golang.org/protobuf/types/known/fieldmaskpb"
	_ "google.golang.org/protobuf/types/known/sourcecontextpb"
	_ "google.golang.org/protobuf/types/known/structpb"
	_ "google.golang.org/protobuf/types/known/timestamppb"
	_ "google.golang.org/protobuf/types/known/typepb"
	_ "google.golang.org/protobuf/types/known/wrapperspb"
)

// maxCompileTime bounds the compilation of one service's files.
const maxCompileTime = time.Minute

// ParseDefinition reads what a service publishes about its methods: a tar or tar.gz of .proto files, or a compiled
// descriptor set. It gives the paths of the methods, and an error that says what is wrong with it.
func ParseDefinition(ctx context.Context, data []byte) (paths []string, err error) {
	d, err := parseDefinition(ctx, data)
	if err != nil {
		return nil, err
	}
	return d.paths(), nil
}

func parseDefinition(ctx context.Context, data []byte) (*definition, error) {
	if !isGzip(data) && !isTar(data) {
		return parseSet(data)
	}
	files, err := readArchive(data)
	if err != nil {
		return nil, err
	}
	return compile(ctx, files)
}

// compile turns .proto files into a definition. Imports are looked for from the root of the files, and where that
// fails and all files are in one folder, from that folder: people pack it either way.
func compile(ctx context.Context, files sources) (*definition, error) {
	ctx, cancel := context.WithTimeout(ctx, maxCompileTime)
	defer cancel()
	d, err := compileFrom(ctx, files)
	if err == nil || ctx.Err() != nil {
		return d, err
	}
	if folder := commonFolder(files); folder != "" {
		inside := sources{}
		for name, text := range files {
			inside[strings.TrimPrefix(name, folder)] = text
		}
		if d, second := compileFrom(ctx, inside); second == nil {
			return d, nil
		}
	}
	return nil, err
}

// commonFolder is the folder, with a slash at its end, that all files are in; "" where there is none.
func commonFolder(files sources) string {
	names := slices.Collect(maps.Keys(files))
	folder := path.Dir(names[0]) + "/"
	for _, name := range names {
		for !strings.HasPrefix(name, folder) {
			if folder = path.Dir(strings.TrimSuffix(folder, "/")) + "/"; folder == "./" {
				return ""
			}
		}
	}
	return strings.TrimPrefix(folder, "./")
}

func compileFrom(ctx context.Context, files sources) (d *definition, err error) {
	defer func() {
		if fault := recover(); fault != nil { // the files are somebody else's
			err = fmt.Errorf("the compiler gave up on the .proto files: %v", fault)
		}
	}()
	compiler := protocompile.Compiler{
		MaxParallelism: 2,
		Resolver:       protocompile.CompositeResolver{protocompile.ResolverFunc(resolveBuiltIn), protocompile.ResolverFunc(files.resolve)},
		SourceInfoMode: protocompile.SourceInfoNone,
	}
	linked, err := compiler.Compile(ctx, files.own()...)
	if err != nil {
		return nil, fmt.Errorf("the .proto files do not compile: %w", err)
	}
	set := new(descriptorpb.FileDescriptorSet)
	seen := map[string]bool{}
	for _, file := range linked {
		collect(set, file, seen)
	}
	return fromSet(set)
}

// collect adds a file and what it imports, imports first.
func collect(set *descriptorpb.FileDescriptorSet, file linker.File, seen map[string]bool) {
	if seen[file.Path()] {
		return
	}
	seen[file.Path()] = true
	for i := range file.Imports().Len() {
		if imported := file.FindImportByPath(file.Imports().Get(i).Path()); imported != nil {
			collect(set, imported, seen)
		}
	}
	set.File = append(set.File, protodesc.ToFileDescriptorProto(file))
}

func resolveBuiltIn(name string) (protocompile.SearchResult, error) {
	file, err := builtIn(name)
	if err != nil {
		return protocompile.SearchResult{}, err
	}
	return protocompile.SearchResult{Desc: file}, nil
}

func (s sources) resolve(name string) (protocompile.SearchResult, error) {
	text, known := s[name]
	if !known {
		return protocompile.SearchResult{}, errors.New("it is not among the published files")
	}
	return protocompile.SearchResult{Source: io.NopCloser(strings.NewReader(text))}, nil
}

// own are the files to compile: all but copies of those that are built in.
func (s sources) own() []string {
	var names []string
	for _, name := range slices.Sorted(maps.Keys(s)) {
		if _, err := builtIn(name); err != nil {
			names = append(names, name)
		}
	}
	return names
}
