/* A TFLite external delegate that misbehaves as its options say, to see whether that is noticed.
 *
 * It computes FULLY_CONNECTED, RESHAPE, ADD and MUL of float32 rightly, and then does wrong:
 *   claim  "all": every node that it can compute; "last": the FULLY_CONNECTED nodes alone
 *   fault  "none", "scale" (1 % too large), "nan", "swap" (two numbers of the output change places),
 *          "stuck" (always the first output), "crash", "hang", "slow"
 *   at     where: at the "matmul" nodes (FULLY_CONNECTED), or at "reshape"
 *   after  the number of such nodes that are computed rightly before the fault
 *   ms     how long a "slow" frame takes, in milliseconds
 *
 * The declarations are the part of the TFLite C ABI that is needed here ("semi-ABI stable": new
 * members are only ever added at the end); gcc is then all that a test needs.
 */

#include <math.h>
#include <signal.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

enum { ADD = 0, FULLY_CONNECTED = 9, MUL = 18, RESHAPE = 22, DELEGATE = 51 };
enum { OK = 0, FAILED = 1, FLOAT32 = 1, RELU = 1 };

typedef struct { int size; int data[]; } Ints;

typedef struct {
    int type;
    void *data;
    Ints *dims;
    struct { float scale; int32_t zero_point; } params;
    int allocation_type;
    size_t bytes;
    const void *allocation;
    const char *name;
    struct Delegate *delegate;
    int buffer_handle;
    bool data_is_stale, is_variable;
    struct { int type; void *params; } quantization;
    void *sparsity;
    const Ints *dims_signature;
} Tensor;

typedef struct {
    Ints *inputs, *outputs, *intermediates, *temporaries;
    void *user_data, *builtin_data;
    const void *custom_initial_data;
    int custom_initial_data_size;
    struct Delegate *delegate;
    bool might_have_side_effect;
} Node;

typedef struct Context Context;

typedef struct {
    void *(*init)(Context *, const char *, size_t);
    void (*free)(Context *, void *);
    int (*prepare)(Context *, Node *);
    int (*invoke)(Context *, Node *);
    const char *(*profiling_string)(const Context *, const Node *);
    int32_t builtin_code;
    const char *custom_name;
    int version;
    void *registration_external;
    void *async_kernel;
    uint64_t inplace_operator;
} Registration;

struct Context {
    size_t tensors_size;
    int (*GetExecutionPlan)(Context *, Ints **);
    Tensor *tensors;
    void *impl;
    void *ResizeTensor, *ReportError, *AddTensors;
    int (*GetNodeAndRegistration)(Context *, int, Node **, Registration **);
    int (*ReplaceNodeSubsetsWithDelegateKernels)(
        Context *, Registration, const Ints *, struct Delegate *);
};

typedef struct Delegate {
    void *data;
    int (*Prepare)(Context *, struct Delegate *);
    void *CopyFromBufferHandle, *CopyToBufferHandle, *FreeBufferHandle;
    int64_t flags;
    void *opaque_delegate_builder;
} Delegate;

typedef struct {
    Delegate *delegate;
    Ints *nodes_to_replace, *input_tensors, *output_tensors;
} Partition;

/* One node that was claimed, with room for its result: the runtime gives none to what stays inside
 * of a partition. */
typedef struct { int op, inputs[3], output; bool relu; float *values; } Step;
typedef struct { int count; Step steps[]; } Plan;

static char claim[16] = "all", fault[16] = "none";
static int at = FULLY_CONNECTED;
static long after, ms, frames;

static bool wants(const Registration *registration, const Context *context, const Node *node) {
    int op = registration->builtin_code;
    if (op != FULLY_CONNECTED && op != RESHAPE && op != ADD && op != MUL) return false;
    if (context->tensors[node->inputs->data[0]].type != FLOAT32) return false;
    return op == FULLY_CONNECTED || strcmp(claim, "all") == 0;
}

static void *make_plan(Context *context, const char *buffer, size_t length) {
    const Partition *partition = (const Partition *)buffer;
    const Ints *nodes = partition->nodes_to_replace;
    Plan *plan = calloc(1, sizeof(Plan) + (size_t)nodes->size * sizeof(Step));
    (void)length;
    for (int i = 0; i < nodes->size; i++) {
        Node *node;
        Registration *registration;
        if (context->GetNodeAndRegistration(context, nodes->data[i], &node, &registration)) break;
        Step *step = &plan->steps[plan->count++];
        step->op = registration->builtin_code;
        for (int k = 0; k < 3; k++)
            step->inputs[k] = k < node->inputs->size ? node->inputs->data[k] : -1;
        step->output = node->outputs->data[0];
        step->relu = (step->op == ADD || step->op == MUL) && *(const int *)node->builtin_data == RELU;
        step->values = malloc(context->tensors[step->output].bytes);
    }
    return plan;
}

static void drop_plan(Context *context, void *data) {
    Plan *plan = data;
    (void)context;
    for (int i = 0; i < plan->count; i++) free(plan->steps[i].values);
    free(plan);
}

static int nothing(Context *context, Node *node) { (void)context; (void)node; return OK; }

static const float *values_of(const Context *context, const Plan *plan, int tensor) {
    for (int i = 0; i < plan->count; i++)
        if (plan->steps[i].output == tensor) return plan->steps[i].values;
    return context->tensors[tensor].data;
}

/* The element of a broadcast operand that belongs to element `index` of the output. */
static float operand(
    const Tensor *tensor, const float *values, const Tensor *output, size_t index) {
    size_t offset = 0, stride = 1;
    int shift = output->dims->size - tensor->dims->size;
    for (int axis = output->dims->size - 1; axis >= 0; axis--) {
        size_t size = (size_t)output->dims->data[axis], at = index % size;
        index /= size;
        if (axis < shift) continue;
        size_t own = (size_t)tensor->dims->data[axis - shift];
        offset += (own == 1 ? 0 : at) * stride;
        stride *= own;
    }
    return values[offset];
}

static void compute(const Context *context, const Plan *plan, const Step *step) {
    const Tensor *output = &context->tensors[step->output];
    const Tensor *first = &context->tensors[step->inputs[0]];
    const float *x = values_of(context, plan, step->inputs[0]);
    size_t count = output->bytes / sizeof(float);
    if (step->op == RESHAPE) {
        memcpy(step->values, x, output->bytes);
        return;
    }
    const Tensor *second = &context->tensors[step->inputs[1]];
    const float *y = values_of(context, plan, step->inputs[1]);
    if (step->op == FULLY_CONNECTED) {
        size_t rows = (size_t)second->dims->data[0], width = (size_t)second->dims->data[1];
        const float *bias =
            step->inputs[2] < 0 ? NULL : values_of(context, plan, step->inputs[2]);
        for (size_t i = 0; i < count; i++) {
            float sum = bias ? bias[i % rows] : 0;
            for (size_t k = 0; k < width; k++)
                sum += x[i / rows * width + k] * y[i % rows * width + k];
            step->values[i] = sum;
        }
        return;
    }
    for (size_t i = 0; i < count; i++) {
        float a = operand(first, x, output, i), b = operand(second, y, output, i);
        float value = step->op == ADD ? a + b : a * b;
        step->values[i] = step->relu && value < 0 ? 0 : value;
    }
}

static void misbehave(float *values, size_t count) {
    static float kept[4096];
    if (strcmp(fault, "scale") == 0) {
        for (size_t i = 0; i < count; i++) values[i] *= 1.01f;
    } else if (strcmp(fault, "nan") == 0) {
        values[0] = NAN;
    } else if (strcmp(fault, "swap") == 0) {
        float first = values[0];
        values[0] = values[count - 1];
        values[count - 1] = first;
    } else if (strcmp(fault, "stuck") == 0) {
        if (frames == after) memcpy(kept, values, count * sizeof(float));
        memcpy(values, kept, count * sizeof(float));
    } else if (strcmp(fault, "crash") == 0) {
        raise(SIGSEGV);
    } else if (strcmp(fault, "hang") == 0) {
        for (;;) sleep(1000);
    } else if (strcmp(fault, "slow") == 0) {
        struct timespec pause = {ms / 1000, ms % 1000 * 1000000};
        nanosleep(&pause, NULL);
    }
}

static int invoke(Context *context, Node *node) {
    const Plan *plan = node->user_data;
    for (int i = 0; i < plan->count; i++) {
        const Step *step = &plan->steps[i];
        size_t bytes = context->tensors[step->output].bytes;
        compute(context, plan, step);
        if (step->op == at) {
            if (frames >= after) misbehave(step->values, bytes / sizeof(float));
            frames++;
        }
        void *output = context->tensors[step->output].data;
        if (output) memcpy(output, step->values, bytes);
    }
    return OK;
}

static int prepare(Context *context, Delegate *delegate) {
    Ints *plan;
    if (context->GetExecutionPlan(context, &plan)) return FAILED;
    Ints *nodes = malloc(sizeof(Ints) + (size_t)plan->size * sizeof(int));
    nodes->size = 0;
    for (int i = 0; i < plan->size; i++) {
        Node *node;
        Registration *registration;
        if (context->GetNodeAndRegistration(context, plan->data[i], &node, &registration)) break;
        if (wants(registration, context, node)) nodes->data[nodes->size++] = plan->data[i];
    }
    Registration kernel = {
        .init = make_plan, .free = drop_plan, .prepare = nothing, .invoke = invoke,
        .builtin_code = DELEGATE, .custom_name = "Misbehaving", .version = 1,
    };
    int status = context->ReplaceNodeSubsetsWithDelegateKernels(context, kernel, nodes, delegate);
    free(nodes);
    return status;
}

Delegate *tflite_plugin_create_delegate(
    char **keys, char **values, size_t count, void (*report)(const char *)) {
    for (size_t i = 0; i < count; i++) {
        if (strcmp(keys[i], "claim") == 0) snprintf(claim, sizeof claim, "%s", values[i]);
        else if (strcmp(keys[i], "fault") == 0) snprintf(fault, sizeof fault, "%s", values[i]);
        else if (strcmp(keys[i], "after") == 0) after = atol(values[i]);
        else if (strcmp(keys[i], "at") == 0)
            at = strcmp(values[i], "reshape") == 0 ? RESHAPE : FULLY_CONNECTED;
        else if (strcmp(keys[i], "ms") == 0) ms = atol(values[i]);
        else { report("there is no such option"); return NULL; }
    }
    Delegate *delegate = calloc(1, sizeof *delegate);
    delegate->Prepare = prepare;
    return delegate;
}

void tflite_plugin_destroy_delegate(Delegate *delegate) { free(delegate); }
