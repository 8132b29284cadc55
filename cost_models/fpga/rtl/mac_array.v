// P x M x V lanes: multiply, add the M products of every filter and pixel, accumulate over the steps of a group. Two
// registers: products, sums. Weights are signed, activations unsigned (what a ReLU gives); V pixels share a weight.
module mac_array #(
    parameter P      = 1,
    parameter M      = 1,
    parameter V      = 1,
    parameter BW     = 8,
    parameter BA     = 8,
    parameter ACC    = 16,
    parameter PACKED = 0  // 1: pixels 2i and 2i + 1 share a multiplier (V even, at most 8 bits)
) (
    input  wire                clk,
    input  wire                rst,
    input  wire                enable,
    input  wire                valid,
    input  wire                first,
    input  wire                last,
    input  wire [P*M*BW-1:0]   weights,      // lane p * M + m
    input  wire [P*M*V*BA-1:0] activations,  // (p * M + m) * V + v
    output reg                 out_valid,
    input  wire                out_ready,
    output reg  [P*V*ACC-1:0]  sums          // p * V + v
);
    localparam BP = BW + BA;

    wire [P*M*V*BP-1:0] product;
    reg  [P*M*V*BP-1:0] products;
    reg valid_3, first_3, last_3;

    genvar lane, v;
    generate
        for (lane = 0; lane < P * M; lane = lane + 1) begin : multiply
            wire signed [BW-1:0] weight = weights[lane*BW +: BW];
            if (PACKED) begin : pairs
                for (v = 0; v < V; v = v + 2) begin : pair
                    packed_multiplier #(.BW(BW), .BA(BA)) multiplier (
                        .weight(weight),
                        .low(activations[(lane*V+v)*BA +: BA]),
                        .high(activations[(lane*V+v+1)*BA +: BA]),
                        .low_product(product[(lane*V+v)*BP +: BP]),
                        .high_product(product[(lane*V+v+1)*BP +: BP])
                    );
                end
            end else begin : singles
                for (v = 0; v < V; v = v + 1) begin : single
                    wire signed [BA:0] activation = {1'b0, activations[(lane*V+v)*BA +: BA]};
                    wire signed [BP:0] exact = weight * activation;
                    assign product[(lane*V+v)*BP +: BP] = exact[BP-1:0];
                end
            end
        end
    endgenerate

    integer p, m, i;
    reg signed [ACC-1:0] sum;
    reg signed [BP-1:0]  term;

    always @(posedge clk) begin
        if (out_ready) out_valid <= 0;
        if (enable) begin
            products <= product;
            valid_3  <= valid;
            first_3  <= first;
            last_3   <= last;
            if (valid_3) begin
                for (p = 0; p < P; p = p + 1)
                    for (i = 0; i < V; i = i + 1) begin
                        sum = first_3 ? 0 : sums[(p*V+i)*ACC +: ACC];
                        for (m = 0; m < M; m = m + 1) begin
                            term = products[((p*M+m)*V+i)*BP +: BP];
                            sum  = sum + term;
                        end
                        sums[(p*V+i)*ACC +: ACC] <= sum;
                    end
                if (last_3) out_valid <= 1;
            end
        end
        if (rst) begin
            valid_3   <= 0;
            out_valid <= 0;
        end
    end
endmodule
