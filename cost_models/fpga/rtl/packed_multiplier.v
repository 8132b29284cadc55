// Two products of one weight in one 27 x 18 multiplier: the activations lie 18 bits apart. A negative low product
// borrows one from the high one, which its sign bit gives back. Combinational; at most 8 bits by 8 bits.
module packed_multiplier #(
    parameter BW = 8,
    parameter BA = 8
) (
    input  wire signed [BW-1:0]    weight,
    input  wire        [BA-1:0]    low,
    input  wire        [BA-1:0]    high,
    output wire signed [BW+BA-1:0] low_product,
    output wire signed [BW+BA-1:0] high_product
);
    wire signed [26:0] packed_pair = {{(9 - BA){1'b0}}, high, {(18 - BA){1'b0}}, low};
    wire signed [44:0] product = packed_pair * weight;

    assign low_product  = product[BW+BA-1:0];
    assign high_product = product[18 +: BW+BA] + {{(BW + BA - 1){1'b0}}, product[17]};
endmodule
