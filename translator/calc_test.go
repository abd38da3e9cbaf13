package translator_test

import (
	"context"
	"io"
	"log"
	"strings"
	"sync"
	"testing"

	"github.com/bufbuild/protocompile"
	"go.uber.org/zap"
	"go.uber.org/zap/zapcore"
	_ "google.golang.org/genproto/googleapis/api/annotations"
	"google.golang.org/protobuf/reflect/protodesc"
	"google.golang.org/protobuf/reflect/protoreflect"
	"google.golang.org/protobuf/reflect/protoregistry"
	"google.golang.org/protobuf/types/dynamicpb"
)

// Paths of the test service.
const (
	pathAdd    = "/calc.v1.Calculator/Add"
	pathEcho   = "/calc.v1.Calculator/Echo"
	pathForget = "/calc.v1.Calculator/Forget"
	pathFree   = "/calc.v1.Calculator/Free"
	pathWatch  = "/calc.v1.Calculator/Watch"
	pathSum    = "/calc.v1.Calculator/Sum"
	pathChat   = "/calc.v1.Calculator/Chat"
	pathOther  = "/calc.v1.Other/Add"
)

var discardLog = log.New(io.Discard, "", 0)

func wrapCore(core zapcore.Core) zap.Option {
	return zap.WrapCore(func(zapcore.Core) zapcore.Core { return core })
}

// calc is the test service's definition as a client has it, compiled by other means than the translator's.
var calc = sync.OnceValues(func() (*protoregistry.Files, error) {
	compiler := protocompile.Compiler{Resolver: protocompile.WithStandardImports(protocompile.CompositeResolver{
		&protocompile.SourceResolver{ImportPaths: []string{"testdata/calc"}},
		protocompile.ResolverFunc(func(name string) (protocompile.SearchResult, error) {
			file, err := protoregistry.GlobalFiles.FindFileByPath(name)
			return protocompile.SearchResult{Desc: file}, err
		}),
	})}
	linked, err := compiler.Compile(context.Background(), "calc.proto")
	if err != nil {
		return nil, err
	}
	files := new(protoregistry.Files)
	var register func(protoreflect.FileDescriptor) error
	register = func(file protoreflect.FileDescriptor) error {
		if _, err := files.FindFileByPath(file.Path()); err == nil {
			return nil
		}
		for i := range file.Imports().Len() {
			if err := register(file.Imports().Get(i).FileDescriptor); err != nil {
				return err
			}
		}
		plain, err := protodesc.NewFile(protodesc.ToFileDescriptorProto(file), files)
		if err != nil {
			return err
		}
		return files.RegisterFile(plain)
	}
	return files, register(linked[0])
})

func calcFiles(t testing.TB) *protoregistry.Files {
	t.Helper()
	files, err := calc()
	if err != nil {
		t.Fatal(err)
	}
	return files
}

func calcTypes(t testing.TB) *dynamicpb.Types { return dynamicpb.NewTypes(calcFiles(t)) }

func methodOf(t testing.TB, path string) protoreflect.MethodDescriptor {
	t.Helper()
	found, err := calcFiles(t).FindDescriptorByName(protoreflect.FullName(strings.ReplaceAll(strings.TrimPrefix(path, "/"), "/", ".")))
	if err != nil {
		t.Fatal(err)
	}
	return found.(protoreflect.MethodDescriptor)
}
