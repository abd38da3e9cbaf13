//lint:file-ignore SA1019 Clients that speak only v1alpha are still about, so it is served and tested.

package translator_test

import (
	"fmt"
	"slices"
	"testing"

	"google.golang.org/grpc/codes"
	reflectionv1 "google.golang.org/grpc/reflection/grpc_reflection_v1"
	reflectionv1alpha "google.golang.org/grpc/reflection/grpc_reflection_v1alpha"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/descriptorpb"

	"github.com/mpegate/mpegate/blockchain"
	"github.com/mpegate/mpegate/translator"
)

// Tools such as grpcurl ask for the services, then for the file of one of them and for what that imports.
func TestReflection(t *testing.T) {
	r := newRig(t, blockchain.ServiceTypeHTTP, rigOptions{settings: func(s *translator.Settings) { s.Reflection = true }})
	stream, err := reflectionv1.NewServerReflectionClient(r.connection).ServerReflectionInfo(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	ask := func(request *reflectionv1.ServerReflectionRequest) *reflectionv1.ServerReflectionResponse {
		t.Helper()
		if err := stream.Send(request); err != nil {
			t.Fatal(err)
		}
		response, err := stream.Recv()
		if err != nil {
			t.Fatal(err)
		}
		return response
	}
	var services []string
	for _, service := range ask(&reflectionv1.ServerReflectionRequest{
		MessageRequest: &reflectionv1.ServerReflectionRequest_ListServices{},
	}).GetListServicesResponse().GetService() {
		services = append(services, service.GetName())
	}
	if slices.Sort(services); fmt.Sprint(services) != "[calc.v1.Calculator calc.v1.Other]" {
		t.Errorf("the services are %v", services)
	}
	files := map[string]bool{}
	for _, data := range ask(&reflectionv1.ServerReflectionRequest{
		MessageRequest: &reflectionv1.ServerReflectionRequest_FileContainingSymbol{FileContainingSymbol: "calc.v1.Calculator.Add"},
	}).GetFileDescriptorResponse().GetFileDescriptorProto() {
		var file descriptorpb.FileDescriptorProto
		if err := proto.Unmarshal(data, &file); err != nil {
			t.Fatal(err)
		}
		files[file.GetName()] = true
	}
	for _, name := range []string{"calc.proto", "types/number.proto", "google/protobuf/any.proto"} {
		if !files[name] {
			t.Errorf("%s is not among %v", name, files)
		}
	}
	if missing := ask(&reflectionv1.ServerReflectionRequest{
		MessageRequest: &reflectionv1.ServerReflectionRequest_FileByFilename{FileByFilename: "secret.proto"},
	}).GetErrorResponse(); missing.GetErrorCode() != int32(codes.NotFound) {
		t.Errorf("a file that is not there: %v", missing)
	}

	old, err := reflectionv1alpha.NewServerReflectionClient(r.connection).ServerReflectionInfo(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	if err := old.Send(&reflectionv1alpha.ServerReflectionRequest{MessageRequest: &reflectionv1alpha.ServerReflectionRequest_ListServices{}}); err != nil {
		t.Fatal(err)
	}
	if response, err := old.Recv(); err != nil || len(response.GetListServicesResponse().GetService()) != 2 {
		t.Errorf("v1alpha: %v, %v", response, err)
	}
}

func TestReflectionIsOffByDefault(t *testing.T) {
	r := newRig(t, blockchain.ServiceTypeHTTP, rigOptions{})
	stream, err := reflectionv1.NewServerReflectionClient(r.connection).ServerReflectionInfo(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	if _, err := stream.Recv(); status.Code(err) != codes.Unimplemented {
		t.Errorf("%v", err)
	}
}
